"""Training and test batches, gathered on the device that holds the data, with no copy from the host."""

from functools import lru_cache

import torch

from diffseg.augmentation import augmented
from diffseg.config import Config
from diffseg.data import Split
from diffseg.randomness import generator


def scaled(images: torch.Tensor) -> torch.Tensor:
    """uint8 images as float32 in [−1, 1]."""
    return images.float() / 127.5 - 1


class Batches:
    """Training batches as a function of the step: `batches(step)` is (images, masks).

    images: float32 [B, C, S, S] in [−1, 1]; masks: float32 [B, 1, S, S], 0 or 1. Every epoch sees each image once, in
    an order of its own, with the mask of one of its raters; with data.fit="crop" a random S × S window of it.
    """

    def __init__(self, split: Split, config: Config):
        self.split, self.config = split, config
        self.device = split.images.device
        self._order = lru_cache(maxsize=2)(self._order)

    def __call__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        draw = generator(self.device, self.config.seed, "batch", step)
        images, masks = self._windows(self._indices(step), draw)
        masks = one_rater(masks, draw)
        return augmented(scaled(images), masks.float(), self.config.data.augment, draw)

    def _indices(self, step: int) -> torch.Tensor:
        """[B] images of this step; a batch may reach from one epoch into the next ones."""
        size, count = self.config.training.batch, len(self.split.names)
        first, last = step * size, (step + 1) * size
        orders = [self._order(epoch) for epoch in range(first // count, (last - 1) // count + 1)]
        return torch.cat(orders)[first % count :][:size]

    def _order(self, epoch: int) -> torch.Tensor:
        draw = generator(self.device, self.config.seed, "order", epoch)
        return torch.randperm(len(self.split.names), generator=draw, device=self.device)

    def _windows(self, indices: torch.Tensor, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        size = self.config.data.size
        if self.split.images.shape[-2:] == (size, size):
            return self.split.images[indices], self.split.masks[indices]
        return windows(self.split, indices, random_corners(self.split.sizes[indices], size, draw), size)


def one_rater(masks: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """[B, R, H, W] to [B, 1, H, W]: the mask of one rater of each image, drawn."""
    count, raters = masks.shape[:2]
    if raters == 1:
        return masks
    which = torch.randint(raters, (count,), generator=draw, device=masks.device)
    return masks[torch.arange(count, device=masks.device), which][:, None]


def random_corners(sizes: torch.Tensor, size: int, draw: torch.Generator) -> torch.Tensor:
    """[B, 2] top-left corners, uniform over the places where a window of that size fits into images of sizes [B, 2]."""
    room = sizes - size + 1
    return (torch.rand(sizes.shape, generator=draw, device=sizes.device) * room).long().minimum(room - 1)


def windows(split: Split, indices: torch.Tensor, corners: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Square windows of images and masks, uint8 [B, C, size, size] and [B, R, size, size]."""
    span = torch.arange(size, device=indices.device)
    rows = (corners[:, 0, None] + span)[:, None, :, None]
    columns = (corners[:, 1, None] + span)[:, None, None, :]
    which = indices[:, None, None, None]

    def gather(pixels: torch.Tensor) -> torch.Tensor:
        return pixels[which, torch.arange(pixels.shape[1], device=indices.device)[None, :, None, None], rows, columns]

    return gather(split.images), gather(split.masks)
