"""From files to arrays: every image is read, resized, and written into its place in the arrays of its split."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from diffseg.config import Data
from diffseg.data import quantisation
from diffseg.data.arrays import OBJECTS, Allocate, DecodedData, DecodedSplit
from diffseg.data.opening import Shape, digest
from diffseg.data.quantisation import Quantisation
from diffseg.data.records import Record, Sample, in_parallel
from diffseg.data.resizing import padded_size, prepare, prepare_masks
from diffseg.data.scaling import PixelFormat
from diffseg.errors import DataError

log = logging.getLogger(__name__)
SPARE = 4  # a photograph is decoded at a reduced size if its sides stay at least this many times the wanted side


def decode(
    config: Data,
    records: dict[str, list[Record]],
    allocate: Allocate = lambda name, shape, dtype: np.empty(shape, dtype),
    on_progress: Callable[[int, int], None] | None = None,
    trained: PixelFormat | None = None,
) -> DecodedData:
    """Decode the records of every split, on all processors, each straight into its place in the arrays.

    Args:
        allocate: returns the array to be filled for a name, a shape and a type.
        on_progress: is given the number of decoded images and of all.
        trained: how a network's training images were decoded. If None, pixels have 16 bits if those of any image have, and
            all volumes share a map fitted to them.

    Raises:
        DataError: for the first image that cannot be read.
    """
    records, common = share_quantisation(config, records, trained)
    every = [record for own in records.values() for record in own]
    shapes = in_parallel(lambda record: record.read_shape(), every)
    form = _find_format(config, every, shapes, trained)
    parts, first = {}, 0
    for split, own in records.items():
        parts[split] = _allocate_split(config, split, own, shapes[first : first + len(own)], form, allocate)
        first += len(own)
    writer = _Writer(config, form, parts, records)
    in_parallel(writer.write, every, on_progress)
    decoded = {split: tuple(own) for split, own in records.items()}
    digests = dict(sorted(writer.digests.items()))
    return DecodedData(parts, form.channels, form.raters, writer.histogram, common, decoded, digests)


def share_quantisation(
    config: Data, records: dict[str, list[Record]], trained: PixelFormat | None
) -> tuple[dict[str, list[Record]], Quantisation | None]:
    """Return the records with the map from their volumes' intensities to pixels, and that map; None without volumes.

    With data.normalise=case every volume keeps a map of its own, which the normalisation cancels.
    """
    paths = list(dict.fromkeys(path for own in records.values() for one in own for path in one.quantised_volumes))
    if not paths or config.normalise == "case":
        return records, None
    if trained and trained.quantisation is None:
        raise DataError(f"{paths[0]} is a volume, but the network was trained on pictures: give pictures")
    found = trained.quantisation if trained else quantisation.fit_quantisation(paths)
    mapped = {
        split: [replace(record, quantisation=found) if record.quantised_volume else record for record in own]
        for split, own in records.items()
    }
    return mapped, found


@dataclass(frozen=True)
class _Format:
    """What all decoded images have in common."""

    channels: int
    raters: int
    dtype: np.dtype  # uint8 or uint16
    instances: bool  # whether the objects of all pixels are known


def _find_format(config: Data, records: list[Record], shapes: list[Shape], trained: PixelFormat | None) -> _Format:
    """Return the channels, raters and type of all images. Raises DataError for an image that does not fit `trained`."""
    channels = max(1 if config.channels == 1 and shape.channels == 3 else shape.channels for shape in shapes)
    deep = any(shape.deep for shape in shapes)
    if trained and not (config.normalise == "case" and records[0].volume):
        _check_fit(records, shapes, trained)
        deep = trained.bits == 16
    known = all(record.knows_objects for record in records)
    return _Format(channels, max(1, records[0].raters), np.dtype(np.uint16 if deep else np.uint8), known)


def _check_fit(records: list[Record], shapes: list[Shape], trained: PixelFormat) -> None:
    """Raise DataError for an image that cannot become pixels as the training images did; log what is stretched."""
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


def _allocate_split(
    config: Data, split: str, records: list[Record], shapes: list[Shape], form: _Format, allocate: Allocate
) -> DecodedSplit:
    """Return the arrays of a split; images, masks, statistics and objects are still to be filled."""
    count = len(records)
    sizes = np.array([padded_size(shape.size, config) for shape in shapes], dtype=np.int64)
    pixels = int(sizes.prod(1).sum())
    return DecodedSplit(
        names=tuple(record.name for record in records),
        groups=tuple(record.group for record in records),
        spacings=tuple(shape.spacing for shape in shapes),
        images=allocate(f"{split}-images", (form.channels * pixels,), form.dtype),
        masks=allocate(f"{split}-masks", (form.raters * pixels,), np.dtype(np.uint8)),
        sizes=sizes,
        originals=np.array([shape.size for shape in shapes], dtype=np.int64),
        statistics=np.zeros((count, 2, form.channels)),
        objects=np.zeros(count, np.int64),
        instances=allocate(f"{split}-{OBJECTS}", (pixels,), np.dtype(np.uint16)) if form.instances else None,
    )


class _Writer:
    """Decodes images into the arrays of their splits, in several threads at once."""

    def __init__(
        self, config: Data, form: _Format, parts: dict[str, DecodedSplit], records: dict[str, list[Record]]
    ) -> None:
        self.histogram = np.zeros((form.channels, 2 ** (8 * form.dtype.itemsize)), np.int64)
        self.digests: dict[str, str] = {}
        self._config, self._form, self._parts, self._lock = config, form, parts, threading.Lock()
        self._places = {id(record): (split, k) for split, own in records.items() for k, record in enumerate(own)}
        areas = {split: part.sizes.prod(1) for split, part in parts.items()}
        self._starts = {split: own.cumsum() - own for split, own in areas.items()}

    def write(self, record: Record) -> None:
        """Decode one image with its masks into its place. Raises DataError."""
        split, index = self._places[id(record)]
        part, form = self._parts[split], self._form
        for path in record.files:
            if str(path) not in self.digests:
                self.digests[str(path)] = digest(path)
        sample = self._read(record, part, index)
        height, width = part.sizes[index].tolist()
        image, masks = prepare(sample, (height, width), self._config)
        self._check(record, image, masks)
        stretch = 257 if image.dtype == np.uint8 and form.dtype == np.uint16 else 1  # 255 becomes 65535
        if stretch > 1:
            image = image * np.uint16(stretch)
        if self._config.normalise == "case":
            part.statistics[index] = record.read_statistics(sample.image) * stretch
        start = int(self._starts[split][index])
        stop = start + height * width
        own = part.images[form.channels * start : form.channels * stop].reshape(form.channels, height, width)
        own[:] = image.transpose(2, 0, 1)
        part.masks[form.raters * start : form.raters * stop].reshape(form.raters, height, width)[:] = masks
        part.objects[index] = sample.objects
        if part.instances is not None and sample.instances is not None:
            instances = prepare_masks(sample.instances, (height, width), self._config)
            part.instances[start:stop].reshape(1, height, width)[:] = instances
        if split == "train":
            self._count(own.reshape(form.channels, -1))

    def _read(self, record: Record, part: DecodedSplit, index: int) -> Sample:
        """Read one image at full size. Raises DataError if its size or depth differs from what its header said before."""
        at_least = SPARE * self._config.size if self._config.fit == "resize" else None
        sample = record.read(self._config.channels, at_least)
        resized = sample.masks.shape[1:] != tuple(part.originals[index])
        if resized or sample.image.itemsize > self._form.dtype.itemsize:
            raise DataError(f"{record.image} has changed while it was read: leave the files alone, and start again")
        return sample

    def _check(self, record: Record, image: np.ndarray, masks: np.ndarray) -> None:
        """Raise DataError if the channels or the masks differ in number from those of the other images."""
        form = self._form
        if image.shape[-1] not in (1, form.channels) or len(masks) != form.raters:
            raise DataError(
                f"{record.image} has {image.shape[-1]} channels and {len(masks)} masks, others {form.channels} and "
                f"{form.raters}: all images of a data set must have the same number of both"
            )

    def _count(self, channels: np.ndarray) -> None:
        """Add the pixels [C, H·W] of a training image to the histogram."""
        found = np.stack([np.bincount(channel, minlength=self.histogram.shape[1]) for channel in channels])
        with self._lock:
            self.histogram += found
