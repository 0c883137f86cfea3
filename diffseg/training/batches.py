"""Training batches: which images a step sees, which window and rater's mask of each, and their augmentation.

Everything is gathered and augmented on the device of the split.
"""

from functools import lru_cache

import torch

from diffseg.config import Config
from diffseg.data.splits import Split
from diffseg.randomness import generator
from diffseg.training.augmentation import augment_batch


class Batches:
    """Training batches as a function of the step: `batches(step)` returns (images, masks).

    images are float32 [B, C, S, S], normalised. masks are float32 [B, 1, S, S], numbers of labels (`diffseg.labels.classes`). Every
    epoch sees each image once, in an order of its own, with the mask of a random rater and, with data.fit="crop", a random
    S × S window.
    """

    def __init__(self, split: Split, config: Config):
        """Make batches of the split's images, of the size and augmentation that the configuration gives."""
        self.split, self.config = split, config
        self.device = split.device
        self._order_of_epoch = lru_cache(maxsize=2)(self._draw_order)

    def __call__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (images, masks) of a step, the same ones each time."""
        draw = generator(self.device, self.config.seed, "batch", step)
        which, size = self._indices(step), self.config.data.size
        images, masks = self.split.cut_windows(which, draw_corners(self.split, which, size, draw), size)
        masks = draw_rater(masks, draw)
        images, masks = augment_batch(self.split.scale(images), masks.float(), self.config.data.augment, draw)
        return self.split.normalise(images, which), masks

    def _indices(self, step: int) -> torch.Tensor:
        """Return the images [B] of a step. A batch may reach from one epoch into the next ones."""
        size, count = self.config.training.batch, len(self.split.names)
        first, last = step * size, (step + 1) * size
        orders = [self._order_of_epoch(epoch) for epoch in range(first // count, (last - 1) // count + 1)]
        return torch.cat(orders)[first % count :][:size]

    def _draw_order(self, epoch: int) -> torch.Tensor:
        """Return the order of the images [N] in an epoch."""
        draw = generator(self.device, self.config.seed, "order", epoch)
        return torch.randperm(len(self.split.names), generator=draw, device=self.device)


def draw_rater(masks: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Return the mask of one random rater of each image: [B, R, H, W] to [B, 1, H, W]."""
    count, raters = masks.shape[:2]
    if raters == 1:
        return masks
    which = torch.randint(raters, (count,), generator=draw, device=masks.device)
    return masks[torch.arange(count, device=masks.device), which][:, None]


def draw_corners(split: Split, which: torch.Tensor, size: int, draw: torch.Generator) -> torch.Tensor:
    """Return top-left corners [B, 2] of random size × size windows that lie inside the images `which` [B]."""
    if split.images.uniform == (size, size):
        return torch.zeros(len(which), 2, dtype=torch.long, device=which.device)
    room = split.sizes[which] - size + 1
    return (torch.rand(room.shape, generator=draw, device=room.device) * room).long().minimum(room - 1)
