"""MedSegDiff's FF-Parser: a learnt filter in frequency space."""

import torch
from torch import nn


class FFParser(nn.Module):
    """A learnt filter in frequency space (MedSegDiff, Eq. 4–6), computed in float32 even under autocast.

    The filter is learnt on the frequencies of size × size maps. For maps of other sizes it is interpolated between them.
    """

    PUBLISHED = {"weight": "complex_weight"}

    def __init__(self, channels: int, size: int):
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(channels, size, size // 2 + 1, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the filtered maps [B, C, H, W]."""
        spectrum = torch.fft.rfft2(x.float(), norm="ortho") * self._filter_of(*x.shape[-2:])
        found: torch.Tensor = torch.fft.irfft2(spectrum, s=x.shape[-2:], norm="ortho")
        return found

    def _filter_of(self, height: int, width: int) -> torch.Tensor:
        """Return the complex filter [C, height, width // 2 + 1] for maps of that size."""
        weight, size = self.weight.float(), self.weight.shape[1]
        if (height, width) != (size, size):
            frequencies = torch.fft.fftfreq(height, device=weight.device) * size
            weight = _interpolate(weight, frequencies % size, dim=1)
            frequencies = torch.fft.rfftfreq(width, device=weight.device) * size
            weight = _interpolate(weight, frequencies.clamp(max=size // 2), dim=2)
        return torch.view_as_complex(weight.contiguous())


def _interpolate(x: torch.Tensor, positions: torch.Tensor, dim: int) -> torch.Tensor:
    """Return x at fractional positions along a dimension that wraps around."""
    below = positions.floor()
    share = (positions - below).view([-1 if d == dim else 1 for d in range(x.dim())])
    first = below.long() % x.shape[dim]
    second = (first + 1) % x.shape[dim]
    return torch.lerp(x.index_select(dim, first), x.index_select(dim, second), share)
