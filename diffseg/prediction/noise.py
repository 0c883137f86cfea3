"""The noise of tiles: windows of noise maps of whole images, so that overlapping tiles see the same noise.

A map depends on the seed, the image, the member and the number of the draw alone, not on the batch. On GPUs one kernel
counts out a draw of all tiles; on CPUs each map has a generator, which is faster there. The two do not agree.
"""

import math
from dataclasses import dataclass

import torch

from diffseg.config import Config
from diffseg.data.splits import Split
from diffseg.labels.labels import Labels
from diffseg.prediction.philox import normal_windows
from diffseg.prediction.tiling import Tile
from diffseg.randomness import generator, seed_of

VECTORS = 1 << 62  # sets the keys of vectors apart from those of maps


@dataclass(frozen=True)
class CountedNoise:
    """The noise of tiles on a GPU: `noise(k)` returns the k-th draw, [B, C, S, S]. All that it depends on lies on the GPU."""

    keys: torch.Tensor  # of the images, int64 [B]
    members: torch.Tensor  # int64 [B]
    corners: torch.Tensor  # top and left, int64 [B, 2]
    channels: int
    size: int

    @classmethod
    def of(cls, tiles: list[Tile], split: Split, config: Config) -> "CountedNoise":
        """Return the noise of tiles of a split."""
        keys = {
            index: seed_of(config.seed, "sample", split.names[index]) for index in {tile.canvas.index for tile in tiles}
        }
        rows = [(keys[tile.canvas.index], tile.member, *tile.corner) for tile in tiles]
        table = torch.tensor(rows, device=split.device)
        return cls(table[:, 0], table[:, 1], table[:, 2:], Labels.of(config).channels, config.data.size)

    def __call__(self, k: int) -> torch.Tensor:
        """Return the k-th draw of each tile, the same one each time."""
        return normal_windows(self.keys, self.members, self.corners, k, self.channels, self.size)

    def vectors(self, k: int, length: int) -> torch.Tensor:
        """Return the k-th vector of each tile, [B, length], the same one for all tiles of a member of an image."""
        apart, corners = self.keys ^ VECTORS, torch.zeros_like(self.corners)  # no value of a map is used again
        side = math.isqrt(length - 1) + 1  # as a square map, since the kernel's grid allows few channels
        return normal_windows(apart, self.members, corners, k, 1, side).flatten(1)[:, :length]


@dataclass(frozen=True)
class GeneratedNoise:
    """The noise of tiles on a CPU: `noise(k)` returns the k-th draw, [B, C, S, S]."""

    tiles: list[Tile]
    split: Split
    config: Config

    def __call__(self, k: int) -> torch.Tensor:
        """Return the k-th draw of each tile, the same one each time."""
        size, device, channels = self.config.data.size, self.split.device, Labels.of(self.config).channels
        maps: dict[tuple[int, int], torch.Tensor] = {}
        for tile in self.tiles:
            if tile.source not in maps:
                name, shape = self.split.names[tile.canvas.index], (channels, *tile.canvas.sums.shape[2:])
                draw = generator(device, self.config.seed, "sample", name, tile.member, k)
                maps[tile.source] = torch.randn(shape, generator=draw, device=device)
        seen = [(maps[tile.source], *tile.corner) for tile in self.tiles]
        return torch.stack([whole[:, top : top + size, left : left + size] for whole, top, left in seen])

    def vectors(self, k: int, length: int) -> torch.Tensor:
        """Return the k-th vector of each tile, [B, length], the same one for all tiles of a member of an image."""
        device, found = self.split.device, dict[tuple[int, int], torch.Tensor]()
        for index, member in dict.fromkeys(tile.source for tile in self.tiles):
            draw = generator(device, self.config.seed, "vector", self.split.names[index], member, k)
            found[index, member] = torch.randn(length, generator=draw, device=device)
        return torch.stack([found[tile.source] for tile in self.tiles])
