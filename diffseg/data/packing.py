"""Images of any sizes in one tensor, so that a batch of windows is one gather."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class PackedImages:
    """Images of any sizes in one flat tensor, one after the other, each [C, H, W]."""

    values: torch.Tensor  # [Σ C·H·W]
    channels: int
    sizes: torch.Tensor  # int64 [N, 2], on the device of the values
    starts: torch.Tensor  # int64 [N]: where each begins, on the device of the values
    uniform: tuple[int, int] | None  # the size of all images, if they share one

    @classmethod
    def pack(cls, images: Sequence[torch.Tensor]) -> "PackedImages":
        """Pack images [C, H, W] one after the other."""
        sizes = torch.tensor([image.shape[1:] for image in images], device=images[0].device)
        return cls.from_flat(torch.cat([image.flatten() for image in images]), len(images[0]), sizes)

    @classmethod
    def from_flat(cls, values: torch.Tensor, channels: int, sizes: torch.Tensor) -> "PackedImages":
        """Wrap packed values. channels: of every image; sizes: int64 [N, 2], height and width."""
        lengths = channels * sizes.prod(1)
        uniform = tuple(sizes[0].tolist()) if (sizes == sizes[:1]).all() else None
        return cls(values, channels, sizes, lengths.cumsum(0) - lengths, uniform)

    @property
    def device(self) -> torch.device:
        """The device of the values."""
        return self.values.device

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.sizes)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Return the index-th image, [C, H, W]."""
        (height, width), start = self.sizes[index].tolist(), int(self.starts[index])
        return self.values[start : start + self.channels * height * width].view(self.channels, height, width)

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Iterate over the images [C, H, W]."""
        return (self[index] for index in range(len(self)))

    def to(self, device: torch.device) -> "PackedImages":
        """Move all tensors to the device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in ("values", "sizes", "starts")})

    def subset(self, indices: torch.Tensor) -> "PackedImages":
        """Select the images that indices [K] number, without a copy of their values."""
        return replace(self, sizes=self.sizes[indices], starts=self.starts[indices])

    def cut_windows(self, which: torch.Tensor, corners: torch.Tensor, size: int) -> torch.Tensor:
        """Cut a window [C, size, size] from each of the images which [B], at top-left corners [B, 2]: [B, C, size, size]."""
        if self.uniform == (size, size):
            length = self.channels * size * size
            return self.values.view(-1, self.channels, size, size)[self.starts[which] // length]
        heights, widths = self.sizes[which].unbind(1)
        span = torch.arange(size, device=which.device)
        rows, columns = (corners[:, side, None] + span for side in (0, 1))
        pixel = rows[:, :, None] * widths[:, None, None] + columns[:, None, :]
        channel = torch.arange(self.channels, device=which.device) * (heights * widths)[:, None]
        return self.values[(self.starts[which, None] + channel)[:, :, None, None] + pixel[:, None]]
