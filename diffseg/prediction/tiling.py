"""Tiles: how large images are cut, and how what was predicted of the tiles is blended."""

from dataclasses import dataclass

import torch


@dataclass
class Canvas:
    """Where the tiles of one image and all members come together, weighted towards each tile's middle."""

    index: int
    sums: torch.Tensor  # [members, H, W]
    weights: torch.Tensor  # [members, H, W]
    evaluations: torch.Tensor  # of the network, of all tiles and members, []
    tiles: list[tuple[int, int]]


@dataclass(frozen=True)
class Tile:
    """A part of an image, seen by one member of the ensemble."""

    canvas: Canvas
    member: int
    corner: tuple[int, int]  # top, left

    @property
    def of(self) -> tuple[int, int]:
        return self.canvas.index, self.member

    def add(self, probability: torch.Tensor, evaluations: torch.Tensor, window: torch.Tensor) -> None:
        """Put what was predicted, [S, S], into its image, weighted by the window [S, S]."""
        (top, left), size = self.corner, len(window)
        place = self.member, slice(top, top + size), slice(left, left + size)
        self.canvas.evaluations += evaluations
        self.canvas.sums[place] += window * probability
        self.canvas.weights[place] += window


def corners(height: int, width: int, size: int, overlap: float) -> list[tuple[int, int]]:
    """Top-left corners of the size × size tiles that cover an image, neighbours sharing at least `overlap` of a side."""

    def starts(length: int) -> list[int]:
        count = 1 + max(0, -(-(length - size) // max(1, round(size * (1 - overlap)))))
        return [round(i * (length - size) / max(1, count - 1)) for i in range(count)]

    return [(top, left) for top in starts(height) for left in starts(width)]


def window(size: int, device: torch.device) -> torch.Tensor:
    """[size, size] weights of a tile's pixels: a squared sine, never quite zero, so that every pixel counts."""
    ramp = torch.sin((torch.arange(size, device=device) + 0.5) / size * torch.pi).square() + 1e-3
    return ramp[:, None] * ramp
