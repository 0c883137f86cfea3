"""What one mask holds: its distinct values, how many pixels have each, and whether they lie in regions or along edges."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffseg.data.masks import HALF, Labels, Rule, foreground, is_plain

AT_ONCE = 2**20  # pixels that are counted


@dataclass(frozen=True)
class Mask:
    """What one mask holds."""

    path: Path
    values: Labels  # the distinct ones, as a picture of one row
    counts: np.ndarray  # int64 [K]: pixels of each
    flat: np.ndarray | None = (
        None  # int64 [K]: those that equal their right and their lower neighbour; None of plain masks
    )
    contour: int = 0  # pairs of neighbours of which one is below HALF

    @classmethod
    def of(cls, path: Path, labels: Labels) -> "Mask":
        if labels.coloured:
            values, counts = np.unique(labels.pixels.reshape(-1, 3), axis=0, return_counts=True)
            return cls(path, Labels(values[None]), counts)
        pixels = labels.pixels
        if pixels.dtype == np.uint8:
            rows = max(1, AT_ONCE // pixels.shape[1])
            parts = (pixels[start : start + rows].ravel() for start in range(0, len(pixels), rows))
            counts = sum(np.bincount(part, minlength=256) for part in parts)  # which takes 8 bytes a pixel
            values = np.flatnonzero(counts)
            counts = counts[values]
        else:
            values, counts = np.unique(pixels, return_counts=True)
        own = Labels(values[None], labels.palette)
        return cls(path, own, counts) if is_plain(values) else cls(path, own, counts, *_texture(pixels, values))

    def pixels(self, rule: Rule) -> int:
        """The number of foreground pixels."""
        return int(self.counts[foreground(self.path, self.values, rule)[0]].sum())

    @property
    def plain(self) -> bool:
        return not self.values.coloured and is_plain(self.values.pixels[0])

    @property
    def inverted(self) -> bool:
        """Whether a palette shows what is numbered as background brighter than the foreground."""
        palette = self.values.palette
        if palette is None or not self.plain:
            return False
        other = int(self.values.pixels.max()) or 1
        return other < len(palette) and int(palette[0].sum()) > int(palette[other].sum())


def _texture(pixels: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, int]:
    """(flat, contour) of a mask [H, W] with these distinct values."""
    above, inner = pixels >= HALF, pixels[:-1, :-1]
    same = inner[(inner == pixels[1:, :-1]) & (inner == pixels[:-1, 1:])]
    contour = (above[1:] != above[:-1]).sum() + (above[:, 1:] != above[:, :-1]).sum()
    return np.bincount(np.searchsorted(values, same), minlength=len(values)), int(contour)
