"""Tiling: how large images are cut into overlapping tiles, and how the predictions of tiles are blended."""

import itertools
from dataclasses import dataclass

import torch


@dataclass
class Canvas:
    """The blended predictions of one image's tiles, for all members of the ensemble."""

    index: int  # of the image in its split
    sums: torch.Tensor  # weighted sums of the tiles' probabilities, [members, K, H, W]
    weights: torch.Tensor  # sums of the tiles' weights, [members, 1, H, W]
    evaluations: torch.Tensor  # network evaluations of all tiles and members, []
    tiles: list[tuple[int, int]]  # top-left corners

    @classmethod
    def blank(
        cls, index: int, shape: tuple[int, int, int, int], tiles: list[tuple[int, int]], device: torch.device
    ) -> "Canvas":
        """Return the canvas of an image whose tiles are still to be predicted. shape: members, classes, height, width."""
        sums = torch.zeros(shape, device=device)
        return cls(index, sums, torch.zeros_like(sums[:, :1]), torch.zeros((), device=device), tiles)


@dataclass(frozen=True)
class Tile:
    """A part of an image, seen by one member of the ensemble."""

    canvas: Canvas
    member: int
    corner: tuple[int, int]  # top, left

    @property
    def source(self) -> tuple[int, int]:
        """The tile's (image, member)."""
        return self.canvas.index, self.member


def add_tiles(tiles: list[Tile], probabilities: torch.Tensor, evaluations: torch.Tensor, window: torch.Tensor) -> None:
    """Add predictions [B, K, S, S] of tiles to their canvases, weighted by the window [S, S], and count their evaluations [B].

    Neighbours in the list that are the same part of an image, seen by one member after the other, are added at once.
    """
    size, first = len(window), 0
    weighted = window * probabilities
    for (_, (top, left)), group in itertools.groupby(tiles, key=lambda tile: (tile.canvas.index, tile.corner)):
        same = list(group)
        canvas, part = same[0].canvas, slice(first, first + len(same))
        members = slice(same[0].member, same[-1].member + 1)
        rows, columns = slice(top, top + size), slice(left, left + size)
        canvas.evaluations += evaluations[part].sum()
        canvas.sums[members, :, rows, columns] += weighted[part]
        canvas.weights[members, :, rows, columns] += window
        first += len(same)


def tile_corners(height: int, width: int, size: int, overlap: float) -> list[tuple[int, int]]:
    """Return the top-left corners of the size × size tiles that cover an image.

    Neighbouring tiles share at least `overlap` of their side.
    """

    def starts(length: int) -> list[int]:
        count = 1 + max(0, -(-(length - size) // max(1, round(size * (1 - overlap)))))
        return [round(i * (length - size) / max(1, count - 1)) for i in range(count)]

    return [(top, left) for top in starts(height) for left in starts(width)]


def tile_window(size: int, device: torch.device) -> torch.Tensor:
    """Return the weights [size, size] of a tile's pixels: a squared sine that is never quite 0, so that every pixel counts."""
    ramp = torch.sin((torch.arange(size, device=device) + 0.5) / size * torch.pi).square() + 1e-3
    return ramp[:, None] * ramp
