"""From files to the arrays that training reads: resized or cut, 8 or 16 bits, all images of a split in one array."""

import hashlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace

import numpy as np
from PIL import Image

from diffseg.config import Data
from diffseg.data import quantisation
from diffseg.data.opening import Shape, digest
from diffseg.data.quantisation import Quantisation, mean_and_deviation
from diffseg.data.records import Record, Sample, in_parallel
from diffseg.data.synthetic import draw_image
from diffseg.errors import DataError

log = logging.getLogger(__name__)
SYNTHETIC_IMAGES = {"train": 200, "test": 40}  # where the configuration leaves it open
SPARE = 4  # times the wanted side that a photograph must at least have when it is decoded smaller than it is

Allocate = Callable[[str, tuple[int, ...], np.dtype], np.ndarray]  # name, shape, type → array to be filled


@dataclass(frozen=True)
class PixelFormat:
    """How a network's training images became pixels, for new images to become pixels in the same way."""

    bits: int
    quantisation: Quantisation | None


@dataclass(frozen=True)
class Part:
    """One split. Images and masks lie one after the other, each [C, H, W] and [R, H, W] in row-major order."""

    names: tuple[str, ...]
    groups: tuple[str | None, ...]  # the patient or volume of each image; None where it is not known
    images: np.ndarray  # uint8 or uint16 [Σ C·H·W]
    masks: np.ndarray  # uint8 [Σ R·H·W], 0 or 1, one a rater
    sizes: np.ndarray  # int64 [N, 2]: height, width
    originals: np.ndarray  # int64 [N, 2]: height, width in the file
    statistics: (
        np.ndarray
    )  # float64 [N, 2, C]: mean and deviation of the case, in pixels; 0 without data.normalise=case
    objects: np.ndarray  # int64 [N]: how many are annotated


ARRAYS = tuple(field.name for field in fields(Part) if field.type is np.ndarray)
DERIVED = ("originals", "statistics")  # of these, what follows from the images and is no part of the digest


@dataclass(frozen=True)
class Content:
    parts: dict[str, Part]  # by split
    channels: int  # C
    raters: int  # R
    histogram: np.ndarray  # int64 [C, 256 or 65536] of the training images
    quantisation: Quantisation | None = None  # of the volumes, if there are any and they have one in common
    records: dict[str, tuple[Record, ...]] | None = None  # by split: what was decoded; None for synthetic images
    digests: dict[str, str] = field(default_factory=dict)  # of the content of the files, by path

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of both parts, by the names of their files in the cache."""
        parts = {f"{split}-{kind}": getattr(part, kind) for split, part in self.parts.items() for kind in ARRAYS}
        return parts | {"histogram": self.histogram}

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits of names, sizes, images and masks."""
        state = hashlib.sha256(repr({split: part.names for split, part in self.parts.items()}).encode())
        with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
            arrays = {name: array for name, array in self.arrays.items() if not name.endswith(DERIVED)}
            for name, found in sorted(zip(arrays, pool.map(_hash, arrays.values()), strict=True)):
                state.update(f"{name} {found}".encode())
        return state.hexdigest()[:12]


def decoded(
    config: Data,
    records: dict[str, list[Record]],
    allocate: Allocate = lambda name, shape, dtype: np.empty(shape, dtype),
    on_progress: Callable[[int, int], None] | None = None,
    trained: PixelFormat | None = None,
) -> Content:
    """Read and prepare every record, on all processors, each straight into its place in the arrays.

    trained: how a trial's images were read; without it, pixels have 16 bits if those of any image have, and volumes get a
    map in common. on_progress is given the number of images that are done and of all. Raises DataError for the first image
    that cannot be read.
    """
    records, common = share_quantisation(config, records, trained)
    everything = [record for chosen in records.values() for record in chosen]
    shapes = in_parallel(lambda record: record.read_shape(), everything)
    channels = max(1 if config.channels == 1 and shape.channels == 3 else shape.channels for shape in shapes)
    deep = any(shape.deep for shape in shapes)
    if trained and not (config.normalise == "case" and everything[0].volume):
        deep = _fitting(everything, shapes, trained)
    dtype = np.dtype(np.uint16 if deep else np.uint8)
    raters = max(1, everything[0].raters)
    sizes = np.array([_target(shape, config) for shape in shapes], dtype=np.int64)
    histogram = np.zeros((channels, 2 ** (8 * dtype.itemsize)), np.int64)
    parts, places, first = {}, {}, 0
    for split, chosen in records.items():
        own, its = sizes[first : first + len(chosen)], shapes[first : first + len(chosen)]
        first += len(chosen)
        ends = own.prod(1).cumsum()
        images = allocate(f"{split}-images", (channels * int(ends[-1]),), dtype)
        masks = allocate(f"{split}-masks", (raters * int(ends[-1]),), np.dtype(np.uint8))
        names, groups = tuple(r.name for r in chosen), tuple(r.group for r in chosen)
        originals = np.array([shape.size for shape in its], dtype=np.int64)
        statistics = np.zeros((len(chosen), 2, channels))
        parts[split] = Part(names, groups, images, masks, own, originals, statistics, np.zeros(len(chosen), np.int64))
        for k, (record, size, end) in enumerate(zip(chosen, own, ends, strict=True)):
            places[id(record)] = parts[split], k, tuple(size), int(end - size.prod()), split == "train"
    lock, digests = threading.Lock(), {}

    def fill(record: Record) -> None:
        part, k, (height, width), start, counted = places[id(record)]
        for path in record.files:
            if str(path) not in digests:
                digests[str(path)] = digest(path)
        sample = record.read(config.channels, SPARE * config.size if config.fit == "resize" else None)
        if sample.masks.shape[1:] != tuple(part.originals[k]) or sample.image.itemsize > dtype.itemsize:
            raise DataError(f"{record.image} has changed while it was read: leave the files alone, and start again")
        image, masks = prepared(sample, (height, width), config)
        if image.shape[-1] not in (1, channels) or len(masks) != raters:
            raise DataError(
                f"{record.image} has {image.shape[-1]} channels and {len(masks)} masks, others {channels} and {raters}: "
                "all images of a data set have as many"
            )
        stretch = 257 if image.dtype == np.uint8 and dtype == np.uint16 else 1
        if stretch > 1:
            image = image * np.uint16(stretch)
        if config.normalise == "case":
            part.statistics[k] = record.read_statistics(sample.image) * stretch
        pixels, stop = height * width, start + height * width
        part.images[channels * start : channels * stop].reshape(channels, height, width)[:] = image.transpose(2, 0, 1)
        part.masks[raters * start : raters * stop].reshape(raters, height, width)[:] = masks
        part.objects[k] = sample.objects
        if counted:
            own = part.images[channels * start : channels * stop].reshape(channels, pixels)
            found = np.stack([np.bincount(channel, minlength=histogram.shape[1]) for channel in own])
            with lock:
                histogram[:] += found

    in_parallel(fill, everything, on_progress)
    decoded = {split: tuple(chosen) for split, chosen in records.items()}
    return Content(parts, channels, raters, histogram, common, decoded, dict(sorted(digests.items())))


def share_quantisation(
    config: Data, records: dict[str, list[Record]], trained: PixelFormat | None
) -> tuple[dict[str, list[Record]], Quantisation | None]:
    """The records with the map of their volumes' numbers to pixels, and that map.

    With data.normalise=case every volume keeps a map of its own, which the normalisation cancels.
    """
    volumes = {
        record.quantised_volume: None for chosen in records.values() for record in chosen if record.quantised_volume
    }
    if not volumes or config.normalise == "case":
        return records, None
    if trained and trained.quantisation is None:
        raise DataError(f"{next(iter(volumes))} is a volume, but the network was trained on pictures: give pictures")
    found = trained.quantisation if trained else quantisation.fit_quantisation(list(volumes))
    mapped = {
        split: [replace(record, quantisation=found) if record.quantised_volume else record for record in chosen]
        for split, chosen in records.items()
    }
    return mapped, found


def _fitting(records: list[Record], shapes: list[Shape], trained: PixelFormat) -> bool:
    """Whether pixels have 16 bits, as those that were trained on. Raises DataError for an image of more bits than these."""
    for record, shape in zip(records, shapes, strict=True):
        if trained.quantisation and not record.quantised_volume:
            raise DataError(f"{record.image} is a picture, but the network was trained on volumes: give NIfTI volumes")
        if shape.deep and trained.bits == 8:
            raise DataError(
                f"{record.image} has 16 bits a channel, but the network was trained on images of 8: save it with 8 bits"
            )
        if not shape.deep and trained.bits == 16 and not record.quantised_volume:
            log.warning(
                "%s has 8 bits a channel and is stretched to the 16 that the network was trained on", record.image
            )
    return trained.bits == 16


def synthetic(config: Data) -> Content:
    """The synthetic images and masks of a configuration."""
    from scipy.ndimage import label

    parts, histogram = {}, np.zeros((3, 256), np.int64)
    for split, limit in (("train", config.train_images), ("test", config.test_images)):
        count = limit or SYNTHETIC_IMAGES[split]
        images, masks = zip(
            *(draw_image(config.kind, config.size, split, index) for index in range(count)), strict=True
        )
        images = np.stack(images).transpose(0, 3, 1, 2)
        if split == "train":
            histogram[:] = [np.bincount(images[:, channel].ravel(), minlength=256) for channel in range(3)]
        parts[split] = Part(
            tuple(f"{split}-{index:04d}" for index in range(count)),
            (None,) * count,
            images.reshape(-1),
            np.stack(masks).astype(np.uint8).reshape(-1),
            np.full((count, 2), config.size, np.int64),
            np.full((count, 2), config.size, np.int64),
            np.stack([mean_and_deviation(image.transpose(1, 2, 0)) for image in images]),
            np.array([label(mask, np.ones((3, 3)))[1] for mask in masks], np.int64),
        )
    return Content(parts, 3, 1, histogram)


def prepared(sample: Sample, size: tuple[int, int], config: Data) -> tuple[np.ndarray, np.ndarray]:
    """image [H, W, C] and masks bool [R, H, W] of the size (H, W) that `_target` gives.

    fit="resize": squashed. fit="crop": resized by scale, and mirrored at the borders where still smaller than a crop.
    Images are averaged over the area of a pixel, masks take the nearest.
    """
    image, masks = sample.image, sample.masks
    if config.fit == "resize":
        return _resized(image, size), _resized_masks(masks, size)
    inner = scaled_size(masks.shape[1:], config)
    image, masks = _resized(image, inner), _resized_masks(masks, inner)
    missing = [(0, outer - side) for outer, side in zip(size, inner, strict=True)]
    return np.pad(image, [*missing, (0, 0)], mode="symmetric"), np.pad(masks, [(0, 0), *missing], mode="symmetric")


def scaled_size(size: tuple[int, int], config: Data) -> tuple[int, int]:
    """(height, width) that an image of that size has for the network, without the mirrored borders of small crops."""
    if config.fit == "resize":
        return config.size, config.size
    return tuple(max(1, round(side * config.scale)) for side in size)


def _target(shape: Shape, config: Data) -> tuple[int, int]:
    return tuple(max(config.size, side) for side in scaled_size(shape.size, config))


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[H, W, C], each channel on its own: Pillow takes four for colours with transparency, and 16 bits one at a time."""
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


def _resized_masks(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if masks.shape[1:] == tuple(size):
        return masks
    nearest = Image.Resampling.NEAREST
    return np.stack([np.asarray(Image.fromarray(mask).resize((size[1], size[0]), nearest)) for mask in masks])


def _hash(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
