"""Training and test batches, gathered and augmented on the device where they are used."""

from functools import lru_cache

import torch

from diffseg.config import Config
from diffseg.data.splits import Split
from diffseg.randomness import generator
from diffseg.training.augmentation import augmented


class Batches:
    """Training batches as a function of the step: `batches(step)` is (images, masks).

    images: float32 [B, C, S, S], normalised; masks: float32 [B, 1, S, S], 0 or 1. Every epoch sees each image once, in
    an order of its own, with the mask of one of its raters; with data.fit="crop" a random S × S window of it.
    """

    def __init__(self, split: Split, config: Config):
        self.split, self.config = split, config
        self.device = split.device
        self._order = lru_cache(maxsize=2)(self._order)

    def __call__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        draw = generator(self.device, self.config.seed, "batch", step)
        which, size = self._indices(step), self.config.data.size
        images, masks = self.split.cut_windows(which, random_corners(self.split, which, size, draw), size)
        masks = one_rater(masks, draw)
        images, masks = augmented(self.split.scale(images), masks.float(), self.config.data.augment, draw)
        return self.split.normalise(images, which), masks

    def _indices(self, step: int) -> torch.Tensor:
        """[B] images of this step; a batch may reach from one epoch into the next ones."""
        size, count = self.config.training.batch, len(self.split.names)
        first, last = step * size, (step + 1) * size
        orders = [self._order(epoch) for epoch in range(first // count, (last - 1) // count + 1)]
        return torch.cat(orders)[first % count :][:size]

    def _order(self, epoch: int) -> torch.Tensor:
        draw = generator(self.device, self.config.seed, "order", epoch)
        return torch.randperm(len(self.split.names), generator=draw, device=self.device)


def one_rater(masks: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """[B, R, H, W] to [B, 1, H, W]: the mask of one rater of each image, drawn."""
    count, raters = masks.shape[:2]
    if raters == 1:
        return masks
    which = torch.randint(raters, (count,), generator=draw, device=masks.device)
    return masks[torch.arange(count, device=masks.device), which][:, None]


def random_corners(split: Split, which: torch.Tensor, size: int, draw: torch.Generator) -> torch.Tensor:
    """[B, 2] top-left corners, uniform over the places where a window of that size fits into the images which [B]."""
    if split.images.uniform == (size, size):
        return torch.zeros(len(which), 2, dtype=torch.long, device=which.device)
    room = split.sizes[which] - size + 1
    return (torch.rand(room.shape, generator=draw, device=room.device) * room).long().minimum(room - 1)
