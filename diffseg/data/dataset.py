"""A data set in memory: its training and test images, decoded once and cached, as tensors of 8 or 16 bits."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from diffseg.config import Data
from diffseg.data import synthetic
from diffseg.data.arrays import DecodedData, DecodedSplit
from diffseg.data.cache import load_or_build
from diffseg.data.decoding import decode
from diffseg.data.layouts import LAYOUTS, check_root
from diffseg.data.numbering import count_numbers
from diffseg.data.packing import PackedImages
from diffseg.data.partition import assign_splits, hash_key, held_out_share, hold_out, limit_records, list_units
from diffseg.data.records import Record
from diffseg.data.requirements import check_channels, examine
from diffseg.data.scaling import Scaling
from diffseg.data.splits import Split
from diffseg.data.uniform_masks import UniformMasks
from diffseg.errors import DataError
from diffseg.labels.classes import IGNORED, Classes

log = logging.getLogger(__name__)
ABSENT = {  # warnings of a class without a pixel, by split
    "train": "data set %s: class %s occurs in no training mask at data.size=%d, so no network can learn it",
    "test": "data set %s: class %s occurs in no test mask at data.size=%d: that it is not predicted there is all that its metrics "
    "measure, so leave it out of conclusions",
}

OUTSIDE = 0.5  # share of an image's 16-bit pixels outside of the training images' range from which it looks foreign
SPAN = 0.02  # share of that range below which an image that spans no more looks foreign


@dataclass(frozen=True)
class Dataset:
    """The images to train on and those to test on."""

    name: str
    digest: str  # of the decoded content: twelve hexadecimal digits
    train: Split
    test: Split
    calibration: Split | None = None  # what is left to choose a threshold by; None for data.calibration=0


def load(
    config: Data,
    root: Path | None,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Decode a data set, or read its decoded copy from the cache.

    Args:
        root: the data set's folder; unused by synthetic data.
        cache: the folder for decoded copies.
        on_progress: is given the number of decoded images and of all, while images are decoded.

    Raises:
        DataError: for the first fault of the data.
    """
    if config.layout == "synthetic":
        content = synthetic.draw_images(config)
        return _to_dataset(config, content, content.digest)
    root = check_root(config, root).absolute()  # paths are stored
    build = partial(decode, config, on_progress=on_progress)
    content, digest = load_or_build(cache, config, root, partial(choose_records, config, root), build)
    check_channels(config, root, content.channels)
    _check_masks(config, content, root)
    return _to_dataset(config, content, digest)


def load_unlabelled(config: Data, records: list[Record], scaling: Scaling) -> Split:
    """Decode images without masks in the way that the training images were decoded.

    Logs a warning for an image or a volume most of whose pixels lie outside of the range of the training images. Raises
    DataError for an image that cannot be read or does not fit the network.
    """
    content = decode(config, {"test": records}, trained=scaling.pixel_format)
    if content.channels not in (1, config.channels):
        raise DataError(
            f"{records[0].image} has {content.channels} channels, but the network was trained on {config.channels}"
        )
    if (layout := LAYOUTS.get(config.layout)) and layout.list_new:
        _check_joined(records, len(scaling.low))
    split = _to_split(config, content, "test", scaling)
    if config.normalise != "case" and scaling.bits == 16:
        _warn_of_other_ranges(split)
    return split


def _check_joined(records: list[Record], trained: int) -> None:
    """Raise DataError for an image whose files have not all the channels of the training images."""
    for record in {record.image: record for record in records}.values():
        if (channels := record.read_shape().channels) != trained:
            raise DataError(
                f"{record.image} has {channels} channel{'s' * (channels > 1)}, but the network was trained on {trained}: give the "
                f"files of all channels, such as {record.shared_name}_{trained - 1:04d}"
            )


def choose_records(config: Data, root: Path) -> dict[str, list[Record]]:
    """Choose the records of both splits, at most data.train_images and data.test_images. Raises DataError."""
    records = assign_splits(examine(config, root).records, config.split_seed)
    limits = {"train": config.train_images, "test": config.test_images}
    return {
        split: limit_records([record for record in records if record.split == split], limit)
        for split, limit in limits.items()
    }


def _check_masks(config: Data, content: DecodedData, root: Path) -> None:
    """Raise DataError if all masks of a split are empty, or all full, at the size of training.

    Logs a warning for a class without a pixel in the masks of a split.
    """
    classes = Classes.of(config)
    for split, part in content.parts.items():
        counts = count_numbers(part.masks, classes)
        valid = counts[:IGNORED]
        if (valid > 0).sum() < 2:
            uniform = UniformMasks(split, len(part.names) * content.raters, bool(valid[1:].any()), bool(config.classes))
            raise DataError(uniform.describe(root, config.size))
        for name, numbers in zip(classes.names, classes.numbers, strict=True):
            if not counts[list(numbers)].any():
                log.warning(ABSENT[split], config.name, name, config.size)


def _to_dataset(config: Data, content: DecodedData, digest: str) -> Dataset:
    """Wrap decoded arrays as tensors; hold out training images for data.held_out and data.calibration."""
    if config.normalise == "case":
        scaling = Scaling.full_range(content.channels, 16 if content.histogram.shape[1] > 256 else 8)
    else:
        scaling = Scaling.from_histogram(content.histogram, content.quantisation)
    train, test = (_to_split(config, content, split, scaling) for split in ("train", "test"))
    calibration = None
    if config.calibration:  # first, so that no fold and no fingerprint of any trial sees them
        rank = [hash_key(f"calibration/{unit}") for unit in list_units(train)]
        train, calibration = hold_out(train, config.calibration, rank, "data.calibration", config.name)
    if config.held_out:
        units = list_units(train)
        share = held_out_share(config, units)
        train, test = hold_out(train, share, [*map(hash_key, units)], "data.held_out", config.name, config.fold)
    return Dataset(config.name, digest, train, test, calibration)


def _to_split(config: Data, content: DecodedData, split: str, scaling: Scaling) -> Split:
    """Wrap the decoded arrays of one split as tensors."""
    part = content.parts[split]
    sizes = torch.from_numpy(part.sizes)
    if config.normalise == "case":
        scaling = Scaling.full_range(content.channels, 8 * part.images.itemsize)
    return Split(
        names=part.names,
        groups=part.groups,
        images=PackedImages.from_flat(torch.from_numpy(part.images), content.channels, sizes),
        masks=PackedImages.from_flat(torch.from_numpy(part.masks), content.raters, sizes),
        objects=tuple(part.objects.tolist()),
        spacings=part.spacings,
        scaling=scaling,
        standard=config.normalise == "standard",
        channels=config.channels,
        device=torch.device("cpu"),
        case_statistics=_scale_statistics(part, scaling) if config.normalise == "case" else None,
        originals=tuple((height, width) for height, width in part.originals.tolist()),
        records=None if content.records is None else content.records[split],
        digests=content.digests,
        instances=None
        if part.instances is None
        else PackedImages.from_flat(torch.from_numpy(part.instances), 1, sizes),
    )


def _scale_statistics(part: DecodedSplit, scaling: Scaling) -> torch.Tensor:
    """Return float32 [N, 2, C]: mean and standard deviation of each case, of pixels scaled to [−1, 1].

    A constant image gets the deviation 1.
    """
    top = scaling.high[0]
    mean, sd = part.statistics[:, 0], part.statistics[:, 1]
    sd = np.where(sd > 0, sd, top / 2)
    return torch.from_numpy(np.stack([2 * mean / top - 1, 2 * sd / top], 1)).float()


def _warn_of_other_ranges(split: Split) -> None:
    """Log a warning for every picture or volume whose pixels do not fit the range of the training images."""
    scaling = split.scaling
    low, high = (torch.tensor(ends)[:, None] for ends in (scaling.low, scaling.high))
    cases: dict[Path, list[torch.Tensor]] = {}
    for record, pixels in zip(split.records or (), split.images, strict=True):
        cases.setdefault(record.image, []).append(pixels.flatten(1).int())
    for path, parts in cases.items():
        values = torch.cat(parts, 1).float()
        outside = float(((values < low) | (values > high)).float().mean())
        span = float(((values.amax(1) - values.amin(1)) / (high - low)[:, 0]).max())
        if outside > OUTSIDE or span < SPAN:
            log.warning(
                "%s does not fit the training images: %.0f %% of its pixels lie outside of their range, and it spans "
                "%.0f %% of that range; are its numbers in another unit?", path, 100 * outside, 100 * span,
            )  # fmt: skip
