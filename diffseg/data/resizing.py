"""Images and masks at the size that the network sees: resized, or mirrored at the borders."""

import numpy as np
from PIL import Image

from diffseg.config import Data
from diffseg.data.records import Sample

Size = tuple[int, int]  # height, width


def prepare(sample: Sample, size: Size, config: Data) -> tuple[np.ndarray, np.ndarray]:
    """Return the image [H, W, C] and the masks uint8 [R, H, W] at a size (H, W) that `padded_size` has given.

    fit="resize" squashes the whole image. fit="crop" resizes it by data.scale, and mirrors it at the borders where it is
    still smaller than a crop. Images are averaged over the area of a pixel; masks take the nearest pixel.
    """
    masks = prepare_masks(sample.masks, size, config)
    if config.fit == "resize":
        return _resize(sample.image, size), masks
    inner = scaled_size((sample.masks.shape[1], sample.masks.shape[2]), config)
    image = _resize(sample.image, inner)
    return np.pad(image, [*_missing(size, inner), (0, 0)], mode="symmetric"), masks


def prepare_masks(masks: np.ndarray, size: Size, config: Data) -> np.ndarray:
    """Return masks [R, H, W] of any type at a size (H, W) that `padded_size` has given; each pixel takes the nearest one."""
    if config.fit == "resize":
        return _resize_masks(masks, size)
    inner = scaled_size((masks.shape[1], masks.shape[2]), config)
    return np.pad(_resize_masks(masks, inner), [(0, 0), *_missing(size, inner)], mode="symmetric")


def _missing(size: Size, inner: Size) -> list[tuple[int, int]]:
    """Return the rows and the columns that an image of the inner size lacks, as np.pad takes them."""
    return [(0, outer - side) for outer, side in zip(size, inner, strict=True)]


def scaled_size(size: Size, config: Data) -> Size:
    """Return the size at which the network sees an image, without the mirrored borders of small crops."""
    if config.fit == "resize":
        return config.size, config.size
    height, width = (max(1, round(side * config.scale)) for side in size)
    return height, width


def padded_size(size: Size, config: Data) -> Size:
    """Return the size at which the network sees an image, with mirrored borders."""
    height, width = (max(config.size, side) for side in scaled_size(size, config))
    return height, width


def _resize(image: np.ndarray, size: Size) -> np.ndarray:
    """Resize uint8 or uint16 [H, W, C], one channel at a time.

    Pillow takes four channels for colours with transparency, and 16 bits one channel at a time.
    """
    if image.shape[:2] == tuple(size):
        return image
    height, width = size
    shrinks = height * width < image.shape[0] * image.shape[1]
    how = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    if image.dtype == np.uint8:
        channels = [Image.fromarray(channel).resize((width, height), how) for channel in np.moveaxis(image, -1, 0)]
        return np.stack([np.asarray(channel) for channel in channels], axis=-1)
    channels = [Image.fromarray(channel.astype(np.float32)) for channel in np.moveaxis(image, -1, 0)]
    found = np.stack([np.asarray(channel.resize((width, height), how)) for channel in channels], axis=-1)
    return found.round().clip(0, 65535).astype(np.uint16)


def _resize_masks(masks: np.ndarray, size: Size) -> np.ndarray:
    """Resize [R, H, W] of bool, uint8 or uint16; every pixel takes the nearest one."""
    if masks.shape[1:] == tuple(size):
        return masks
    nearest = Image.Resampling.NEAREST
    return np.stack([np.asarray(Image.fromarray(mask).resize((size[1], size[0]), nearest)) for mask in masks])
