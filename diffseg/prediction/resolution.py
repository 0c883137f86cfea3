"""Maps and masks at the size at which they are compared."""

import torch
import torch.nn.functional as F

from diffseg.config import Config
from diffseg.data.resizing import scaled_size
from diffseg.data.splits import Split


def restored(maps: torch.Tensor, split: Split, index: int, config: Config) -> torch.Tensor:
    """Maps [n, h, w] of the index-th image at the size at which it is evaluated; to its own they are interpolated bilinearly.

    Mirrored borders, which small images have with data.fit="crop", are cut off then.
    """
    if config.inference.resolution == "network" or split.records is None:
        return maps
    size = split.originals[index]
    height, width = scaled_size(size, config.data)
    return F.interpolate(maps[None, :, :height, :width], size, mode="bilinear")[0]


def truth(split: Split, index: int, config: Config) -> torch.Tensor:
    """The raters' masks of the index-th image at the size at which it is evaluated, bool [R, H, W].

    Raises DataError if its files have changed since they were decoded.
    """
    if config.inference.resolution == "network" or split.records is None:
        return split.masks[index].to(split.device).bool()
    return torch.from_numpy(split.record(index).read_masks()).to(split.device)
