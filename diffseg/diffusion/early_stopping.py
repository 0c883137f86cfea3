"""Early stopping of sampling, for each sample on its own."""

from collections.abc import Callable

import torch

from diffseg.diffusion.samplers import Share

Rows = torch.Tensor | slice
DenoiseRows = Callable[[torch.Tensor, torch.Tensor, Rows], tuple[torch.Tensor, Share]]


class EarlyStoppingDenoiser:
    """A denoiser that stops denoising a sample once its mask has not changed for `patience` steps.

    A stopped sample keeps its last x̂0. Samples are independent of each other.

    Attributes:
        evaluations: The number of network evaluations of each sample, [B].
    """

    def __init__(
        self,
        denoise: DenoiseRows,
        patience: int | None,
        decide: Callable[[torch.Tensor], torch.Tensor],
        x: torch.Tensor,
    ):
        """Wrap a denoiser of some rows of a batch as a denoiser for samplers.

        Args:
            denoise: Called with (x_t, t, rows), it returns (x̂0, share) of these rows.
            patience: The number of unchanged steps after which a sample stops; None to never stop, which also spares
                the host from waiting for the device.
            decide: Returns the mask [B, *, H, W] of x̂0.
            x: A tensor of the batch's shape [B, C, H, W].
        """
        self.denoise, self.patience, self.decide = denoise, patience, decide
        self.evaluations = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self._unchanged = torch.full_like(self.evaluations, -1)  # the first mask equals none before, and counts 0
        self._x0 = torch.full_like(x, torch.nan)
        self._share: Share | None = None

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, Share]:
        """Return (x̂0, share) of the whole batch at time t []."""
        if self.patience is None:
            self.evaluations += 1
            return self.denoise(x_t, t, slice(None))
        rows = (self._unchanged < self.patience).nonzero()[:, 0]
        if len(rows):
            self._update(rows, *self.denoise(x_t[rows], t, rows))
        assert self._share is not None  # the first call denoises every row
        return self._x0, self._share

    def _update(self, rows: torch.Tensor, x0: torch.Tensor, share: Share) -> None:
        same = (self.decide(x0) == self.decide(self._x0[rows])).flatten(1).all(1)
        self._unchanged[rows] = torch.where(same, self._unchanged[rows] + 1, 0)
        self.evaluations[rows] += 1
        self._x0 = self._x0.index_copy(0, rows, x0)  # not in place, since samplers keep the last ones
        if isinstance(self._share, torch.Tensor) and isinstance(share, torch.Tensor):
            self._share = self._share.index_copy(0, rows, share)
        else:
            self._share = share
