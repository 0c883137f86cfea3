"""The values of one mask: how many pixels have each, and whether these lie in regions or along contours."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffseg.data.masks import HALF, ForegroundRule, MaskPixels, is_binary, select_foreground
from diffseg.data.numbering import CHUNK, blank_ignored, number_pixels
from diffseg.labels.classes import BINARY, Classes


@dataclass(frozen=True)
class MaskHistogram:
    """The K distinct values of one mask, and how many of its pixels have each."""

    path: Path
    values: MaskPixels  # the distinct values, as a picture of one row
    counts: np.ndarray  # int64 [K]: pixels of each value
    interior: np.ndarray | None = (
        None  # int64 [K]: those that equal their right and lower neighbour; None of binary masks
    )
    contour: int = 0  # pairs of neighbours on either side of HALF

    @classmethod
    def from_labels(cls, path: Path, labels: MaskPixels, classes: Classes = BINARY) -> "MaskHistogram":
        """Count the values of a mask. If no class is named, ignored pixels are left out; their values become 0."""
        if classes.ignored and not classes.values:
            kept, ignored = blank_ignored(labels, classes.ignored)
            found = cls.from_labels(path, kept)
            found.counts[0] -= ignored.sum()  # 0, or black, is the first value
            return found
        if labels.coloured:
            colours, counts = np.unique(labels.pixels.reshape(-1, 3), axis=0, return_counts=True)
            return cls(path, MaskPixels(colours[None]), counts)
        values, counts = _count_values(labels.pixels)
        row = MaskPixels(values[None], labels.palette)
        if is_binary(values):
            return cls(path, row, counts)
        return cls(path, row, counts, _count_interior(labels.pixels, values), _count_contour(labels.pixels))

    def count_foreground(self, rule: ForegroundRule) -> int:
        """Return the number of pixels that the rule makes foreground."""
        return int(self.counts[select_foreground(self.path, self.values, rule)[0]].sum())

    def count_numbers(self, classes: Classes, rule: ForegroundRule) -> np.ndarray:
        """Return how many pixels have each number once the mask is decoded, [256]."""
        return np.bincount(number_pixels(self.path, self.values, classes, rule)[0], self.counts, 256)

    @property
    def binary(self) -> bool:
        """Whether the mask holds 0 and 255, or 0 and 1, or only one of these."""
        return not self.values.coloured and is_binary(self.values.pixels[0])

    @property
    def inverted(self) -> bool:
        """Whether the palette of a binary mask shows background brighter than foreground."""
        palette = self.values.palette
        if palette is None or not self.binary:
            return False
        other = int(self.values.pixels.max()) or 1
        return other < len(palette) and int(palette[0].sum()) > int(palette[other].sum())


def _count_values(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values of a mask [H, W], ascending, and the number of pixels of each."""
    if pixels.dtype != np.uint8:
        return np.unique(pixels, return_counts=True)
    rows = max(1, CHUNK // pixels.shape[1])
    counts = np.zeros(256, np.int64)
    for start in range(0, len(pixels), rows):
        counts += np.bincount(pixels[start : start + rows].ravel(), minlength=256)
    values = np.flatnonzero(counts)
    return values, counts[values]


def _count_interior(pixels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the number of pixels of each value that equal their right and their lower neighbour, int64 [K]."""
    inner = pixels[:-1, :-1]
    same = inner[(inner == pixels[1:, :-1]) & (inner == pixels[:-1, 1:])]
    return np.bincount(np.searchsorted(values, same), minlength=len(values))


def _count_contour(pixels: np.ndarray) -> int:
    """Return the number of pairs of neighbours, one below HALF and the other not."""
    above = pixels >= HALF
    return int((above[1:] != above[:-1]).sum() + (above[:, 1:] != above[:, :-1]).sum())
