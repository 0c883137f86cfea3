"""E2's own errors over the noise levels while it trains, and what follows from them: sampling grids and online curves.

The information about a mask that its noisy form holds, given the image, grows with log-SNR λ at the rate SNR mmse(λ)/2 (Guo et
al., 2005). The fingerprint of E3 is without the image, and only an upper bound of it.
"""

import torch

from diffseg.config import Diffusion
from diffseg.diffusion import profile
from diffseg.diffusion.densities import LevelMeans, bin_of
from diffseg.diffusion.schedules import log_snr
from diffseg.errors import UserError
from diffseg.fingerprint.curve import Fingerprint, compute_fingerprint

POWER = 4  # of the weight of the past
REFRESH = 100  # steps between two updates of an online curve


class LevelErrors(LevelMeans):
    """The mean squared error of x̂0 in bins of t, over the later part of the training so far.

    It is a buffer of the network, and so part of its checkpoints.
    """

    mean: torch.Tensor
    visits: torch.Tensor

    def __init__(self) -> None:
        """Start without any error."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(self.BINS, dtype=torch.float64))
        self.register_buffer("visits", torch.zeros(self.BINS, dtype=torch.float64))

    @torch.no_grad()
    def update(self, t: torch.Tensor, values: torch.Tensor, decay: float) -> None:
        """Add the errors [B] at t [B] of a batch. Empty bins stay.

        The k-th errors of a bin weigh in proportion to k³ about (a power function average, Karras et al., 2024, Eq. 8), so
        that those of the untrained network are forgotten however long the training is. The decay is not used.
        """
        means, counts = self.bin_means(t, values)
        kept = (self.visits / (self.visits + 1)) ** POWER
        self.mean.copy_(torch.where(counts > 0, torch.lerp(means, self.mean, kept), self.mean))
        self.visits.add_(counts > 0)

    def curve(self, kind: str, diffusion: Diffusion) -> Fingerprint:
        """Return the errors so far as a fingerprint of a kind, on the noise levels of the configuration's schedule.

        Raises UserError if fewer than two bins were met.
        """
        met = self.visits.cpu() > 0
        if met.sum() < 2:
            raise UserError("the errors over the noise levels are unknown before any training step")
        t = (torch.arange(self.BINS, dtype=torch.float64)[met] + 0.5) / self.BINS
        columns = t.tolist(), log_snr(t, diffusion).tolist(), self.mean.cpu()[met].tolist()
        rows = [
            {"step": 0, "t": at, "log_snr": level, "mask_error": error}
            for at, level, error in zip(*columns, strict=True)
        ]
        return compute_fingerprint([rows], kind)

    def grid_curve(self, grid: str, diffusion: Diffusion) -> tuple[tuple[float, float], ...]:
        """Return the knots (log-SNR, weight) that a sampling grid is made from, rising in the log-SNR.

        Raises UserError if the errors do not rise with the noise.
        """
        found = self.curve("entropy-rate", diffusion)
        if grid == "entropic":
            return found.knots()
        pairs = zip(found.log_snr[::-1].tolist(), found.error_smooth[::-1].tolist(), strict=True)
        return tuple(pairs)


class OnlineCurve(LevelErrors):
    """Errors over the noise levels whose curve weighs or spreads the training, updated every REFRESH steps."""

    heights: torch.Tensor
    probabilities: torch.Tensor

    def __init__(self) -> None:
        """Start with a flat curve."""
        super().__init__()
        flat = torch.ones(profile.BINS, dtype=torch.float64)
        self.register_buffer("heights", flat.clone())  # of the curve in the middle of each bin of t, between 0 and 1
        self.register_buffer("probabilities", flat / profile.BINS)  # of each bin in training

    @torch.no_grad()
    def refresh(self, diffusion: Diffusion) -> None:
        """Follow the errors so far. The curve stays as it is while they do not rise with the noise."""
        try:
            knots = self.curve(diffusion.fingerprint, diffusion).knots()
        except UserError:
            return
        self.heights.copy_(profile.heights_of_bins(knots, diffusion))
        self.probabilities.copy_(profile.probabilities_of_bins(knots, diffusion))

    def weight(self, t: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
        """Return the curve at t as a loss weight: (1 − diffusion.mixing) times the curve plus diffusion.mixing."""
        heights = self.heights[bin_of(t, profile.BINS)]
        return torch.lerp(heights, torch.ones_like(heights), diffusion.mixing)
