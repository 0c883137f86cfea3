"""From files to the arrays that training reads: resized or padded, uint8."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from diffseg.config import Data
from diffseg.data.records import Record, in_parallel
from diffseg.data.synthetic import draw

SYNTHETIC_IMAGES = {"train": 200, "test": 40}  # where the configuration leaves it open


@dataclass(frozen=True)
class Part:
    """One split: images uint8 [N, C, H, W], masks uint8 [N, R, H, W] of 0 and 1, one a rater, sizes int64 [N, 2]."""

    names: tuple[str, ...]
    images: np.ndarray
    masks: np.ndarray
    sizes: np.ndarray


Content = dict[str, Part]  # by split


def decoded(config: Data, records: dict[str, list[Record]]) -> Content:
    """Read and prepare every record, on all processors. Raises DataError for the first that cannot be read."""

    def read(record: Record):
        return prepared(*record.read(), config)

    return {split: _stacked([r.name for r in chosen], in_parallel(read, chosen)) for split, chosen in records.items()}


def synthetic(config: Data) -> Content:
    """The synthetic images and masks of a configuration."""
    content = {}
    for split, limit in (("train", config.train_images), ("test", config.test_images)):
        count = limit or SYNTHETIC_IMAGES[split]
        drawn = (draw(config.kind, config.size, split, index) for index in range(count))
        pairs = ((image, mask[None]) for image, mask in drawn)
        content[split] = _stacked([f"{split}-{index:04d}" for index in range(count)], pairs)
    return content


def prepared(image: np.ndarray, masks: np.ndarray, config: Data) -> tuple[np.ndarray, np.ndarray]:
    """image uint8 [H, W, C] and masks bool [R, H, W] as the configuration wants them.

    fit="resize": squashed to size × size. fit="crop": resized by scale, and mirrored at the borders where still smaller
    than a crop. Images are averaged over the area of a pixel, masks take the nearest.
    """
    if config.fit == "resize":
        return _resized(image, masks, config.size, config.size)
    height, width = (max(1, round(side * config.scale)) for side in masks.shape[1:])
    image, masks = _resized(image, masks, height, width)
    missing = [(0, max(0, config.size - side)) for side in masks.shape[1:]]
    return np.pad(image, [*missing, (0, 0)], mode="symmetric"), np.pad(masks, [(0, 0), *missing], mode="symmetric")


def digest(content: Content) -> str:
    """Twelve hexadecimal digits of names, images and masks."""
    state = hashlib.sha256()
    for split in sorted(content):
        part = content[split]
        state.update("\n".join((split, *part.names)).encode())
        for pixels in (part.images, part.masks):
            state.update(np.ascontiguousarray(pixels))
    return state.hexdigest()[:12]


def _resized(image: np.ndarray, masks: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    if masks.shape[1:] == (height, width):
        return image, masks
    shrinks = height * width < masks[0].size
    smooth = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    resize: Callable = lambda pixels, how: np.asarray(Image.fromarray(pixels).resize((width, height), how))  # noqa: E731
    # each channel on its own: Pillow takes four for colours with transparency
    image = np.stack([resize(channel, smooth) for channel in np.moveaxis(image, -1, 0)], axis=-1)
    return image, np.stack([resize(mask, Image.Resampling.NEAREST) for mask in masks])


def _stacked(names: list[str], pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Part:
    pairs = list(pairs)
    sizes = np.array([masks.shape[1:] for _, masks in pairs], dtype=np.int64)
    height, width = sizes.max(0)
    images = np.zeros((len(pairs), pairs[0][0].shape[-1], height, width), np.uint8)
    masks = np.zeros((len(pairs), len(pairs[0][1]), height, width), np.uint8)
    for (image, raters), to_image, to_masks in zip(pairs, images, masks, strict=True):
        to_image[:, : raters.shape[1], : raters.shape[2]] = image.transpose(2, 0, 1)
        to_masks[:, : raters.shape[1], : raters.shape[2]] = raters
    return Part(tuple(names), images, masks, sizes)
