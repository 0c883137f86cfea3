"""From pixels of 8 or 16 bits to the numbers that a network takes, as the training images say."""

from dataclasses import astuple, dataclass

import numpy as np

from diffseg.data.quantisation import Quantisation

OUTLIERS = 0.005  # share of the 16-bit training pixels at either end that is clipped


@dataclass(frozen=True)
class PixelFormat:
    """How a network's training images became pixels, so that new images become pixels in the same way."""

    bits: int
    quantisation: Quantisation | None


@dataclass(frozen=True)
class Scaling:
    """The map from pixels to the network's numbers, per channel, fitted to the training images."""

    low: tuple[float, ...]  # pixel value that becomes −1
    high: tuple[float, ...]  # pixel value that becomes 1
    mean: tuple[float, ...]  # of the scaled training pixels
    sd: tuple[float, ...]  # of the scaled training pixels
    bits: int = 8  # of the pixels
    volumes: tuple[float, float, int] | None = None  # Quantisation of volumes: offset, gain and bits

    @classmethod
    def from_histogram(cls, histogram: np.ndarray, quantisation: Quantisation | None = None) -> "Scaling":
        """Fit the scaling to counts [C, levels] of the training pixels. 8 bits keep their range; 16 bits lose their outliers."""
        levels = np.arange(histogram.shape[1])
        low, high = np.zeros(len(histogram)), np.full(len(histogram), 255.0)
        if len(levels) > 256:
            shares = histogram.cumsum(1) / histogram.sum(1, keepdims=True)
            low = (shares <= OUTLIERS).sum(1).astype(float)
            high = np.maximum((shares < 1 - OUTLIERS).sum(1), low + 1)
        scaled = (2 * (levels - low[:, None]) / (high - low)[:, None] - 1).clip(-1, 1)
        share = histogram / histogram.sum(1, keepdims=True)
        mean = (share * scaled).sum(1)
        sd = np.sqrt((share * (scaled - mean[:, None]) ** 2).sum(1))
        bits = 16 if len(levels) > 256 else 8
        volumes = None if quantisation is None else astuple(quantisation)
        return cls(_floats(low), _floats(high), _floats(mean), _floats(np.maximum(sd, 1e-3)), bits, volumes)

    @classmethod
    def full_range(cls, channels: int, bits: int) -> "Scaling":
        """Scale the whole range of the pixels; data.normalise=case then normalises each case by its own statistics."""
        top = 2.0**bits - 1
        return cls((0.0,) * channels, (top,) * channels, (0.0,) * channels, (1.0,) * channels, bits)

    @property
    def pixel_format(self) -> PixelFormat:
        """How the training images became pixels, for the decoding of new images."""
        return PixelFormat(self.bits, self.volumes and Quantisation(*self.volumes))


def _floats(values: np.ndarray) -> tuple[float, ...]:
    """Return the values [C] as a tuple."""
    return tuple(values.tolist())
