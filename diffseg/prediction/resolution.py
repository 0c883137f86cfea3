"""The resolution at which predictions are compared with the masks: the network's or the images' own."""

import torch
import torch.nn.functional as F

from diffseg.config import Config
from diffseg.data.resizing import scaled_size
from diffseg.data.splits import Split


def resize_to_evaluation(maps: torch.Tensor, split: Split, index: int, config: Config) -> torch.Tensor:
    """Bring maps [n, K, h, w] of the index-th image to the size at which it is evaluated.

    To the image's own size they are interpolated bilinearly. The mirrored borders that data.fit="crop" adds to small images
    are cut off first.
    """
    if config.inference.resolution == "network" or split.records is None:
        return maps
    size = split.originals[index]
    height, width = scaled_size(size, config.data)
    return F.interpolate(maps[..., :height, :width], size, mode="bilinear")


def reference_labels(split: Split, index: int, config: Config) -> torch.Tensor:
    """Return the raters' masks of the index-th image at the size at which it is evaluated: stored numbers, uint8 [R, H, W].

    Raises:
        DataError: The image's files have changed since they were decoded.
    """
    if config.inference.resolution == "network" or split.records is None:
        return split.masks[index].to(split.device)
    return torch.from_numpy(split.record(index).read_masks()).to(split.device)
