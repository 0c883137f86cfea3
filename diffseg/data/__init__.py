"""Data sets: found on disk in their official layout, decoded once, held as tensors of 8 or 16 bits."""

import logging
import os
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from diffseg.config import Data
from diffseg.data import arrays, brats, folder, isic16, lidc, monuseg, slices
from diffseg.data.cache import is_current, load_or_build
from diffseg.data.files import check_name
from diffseg.data.listing import Listing, find_conflicts
from diffseg.data.opening import Shape
from diffseg.data.partition import assign_splits, count_held_out, hash_key, hold_out, limit_records, unit_name
from diffseg.data.recognise import elsewhere
from diffseg.data.records import Record, in_parallel
from diffseg.data.splits import PackedImages, Scaling, Split
from diffseg.data.survey import Decision, decide
from diffseg.errors import DataError

log = logging.getLogger(__name__)

OUTSIDE = 0.5  # share of an image's 16-bit pixels outside of the training images' range from which it looks foreign
SPAN = 0.02  # share of that range below which an image that spans no more looks foreign
LAYOUTS = {"isic16": isic16, "monuseg": monuseg, "lidc": lidc, "brats": brats, "folder": folder}


@dataclass(frozen=True)
class Dataset:
    name: str
    digest: str  # of the decoded content: twelve hexadecimal digits
    train: Split
    test: Split


def load(
    config: Data,
    root: Path | None,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """The decoded data set. root: its folder (not used by synthetic data). cache: folder for decoded copies.

    on_progress is told how many of how many images are decoded, if any have to be. Raises DataError for the first thing
    that is wrong with the data.
    """
    if config.layout == "synthetic":
        content = arrays.synthetic(config)
        return _dataset(config, content, content.digest)
    _check_root(config, root)
    root = root.absolute()  # for the paths that are remembered
    build = partial(arrays.decoded, config, on_progress=on_progress)
    content, digest = load_or_build(cache, config, root, partial(_chosen, config, root), build)
    _check_channels(config, root, content.channels)
    _check_masks(content, root)
    return _dataset(config, content, digest)


def _check_masks(content: arrays.Content, root: Path) -> None:
    """Raise DataError if all masks of a split are empty, or all full."""
    for split, part in content.parts.items():
        masks, kind = part.masks.view(bool), "training" if split == "train" else "test"
        if not masks.any() or masks.all():
            raise _uniform(root, f"all {len(part.names)} {kind} masks", bool(masks.any()), " at this size")


def _uniform(root: Path, which: str, full: bool, where: str = "") -> DataError:
    """Of masks that are all empty or all full. where: at the size of training, where that may be the reason."""
    if full:
        advice = "full: check with `diffseg data check` that they are not inverted, or give data.foreground"
    else:
        larger = ", or give a larger data.size" if where else ", or give data.foreground"
        advice = f"empty{where}: check them with `diffseg data check`{larger}"
    return DataError(f"{which} of {root} are {advice}")


def examine(config: Data, root: Path | None, cache: Path | None = None) -> Listing:
    """What lies at the root, after a look at names, splits, patients, headers, and the values of all masks.

    The records have their foreground. Headers and masks are not looked at where the cache holds what was decoded from
    these files. Writes nothing. Raises DataError for the first thing that is wrong, with the sentence of `load`.
    """
    found = find(config, root)
    _refuse(config, root, found.problems)
    if cache and is_current(cache, config, root):
        _check_counts(config, root, found.records)
        return found
    check_consistency(config, root, found.records)
    rule = _decided(config, root, found).rule
    return replace(found, records=tuple(replace(record, foreground=rule) for record in found.records))


def check_consistency(config: Data, root: Path, records: Sequence[Record]) -> None:
    """Raise DataError for too few images or patients, unequal sizes of image and mask, or channels that do not fit."""
    _check_counts(config, root, records)
    firsts = list({record.image: record for record in records}.values())  # one slice of each volume
    shapes = in_parallel(_header, firsts)
    _refuse(config, root, [problem for problem in shapes if isinstance(problem, str)])
    counts = [1 if config.channels == 1 and shape.channels == 3 else shape.channels for shape in shapes]
    for record, count in zip(firsts, counts, strict=True):
        if count not in (1, max(counts)):
            raise DataError(
                f"{record.image} has {count} channels, others have {max(counts)}: all images of a data set have as many"
            )
    _check_channels(config, root, max(counts))


def _header(record: Record) -> Shape | str:
    try:
        return record.check_headers()
    except DataError as error:
        return str(error)


def _refuse(config: Data, root: Path, problems: Sequence[str]) -> None:
    if problems:
        more = (
            f" (and {len(problems) - 1} more: `diffseg data check {config.name} {shlex.quote(str(root))}` lists them)"
        )
        raise DataError(problems[0] + more * (len(problems) > 1))


def _check_channels(config: Data, root: Path, channels: int) -> None:
    if channels not in (1, config.channels):
        raise DataError(
            f"the images of {root} have {channels} channels, but data.channels is {config.channels}: "
            f"set data.channels={channels}"
        )


def _check_counts(config: Data, root: Path, found: Sequence[Record]) -> None:
    """Raise DataError if a split would have no images, or the training one a single one, or none can be held out."""
    records = assign_splits(
        found, config.split_seed, masks=False
    )  # which are tested on is drawn anew with masks, how many not
    counts = Counter(record.split for record in records)
    patients = {record.group for record in records}
    if not counts["test"] and len(patients) == 1 and None not in patients:
        raise DataError(
            f"all {len(records)} images of {root} are of one patient or volume, {patients.pop()}: a data set needs some to "
            "train on and others to test on"
        )
    for split in ("train", "test"):
        if not counts[split]:
            raise DataError(f"{root} has no {split} images: a data set needs images to train on and others to test on")
    if min(counts["train"], config.train_images or 2) == 1:
        given = [record.name for record in found if record.split == "train"]
        name = f", {given[0]}" if len(given) == 1 else ""
        raise DataError(f"{root} has a single training image{name}: at least two are needed")
    if config.held_out:
        training = limit_records([record for record in records if record.split == "train"], config.train_images)
        units = [unit_name(record.group, record.name) for record in training]
        count_held_out(units, config.held_out, "data.held_out", config.name)


def _chosen(config: Data, root: Path) -> dict[str, list[Record]]:
    """The records of both splits. Raises DataError for the first thing that is wrong with them."""
    records = assign_splits(examine(config, root).records, config.split_seed)
    limits = {"train": config.train_images, "test": config.test_images}
    return {
        split: limit_records([record for record in records if record.split == split], limit)
        for split, limit in limits.items()
    }


def _decided(config: Data, root: Path, found: Listing) -> Decision:
    """What the foreground is. Raises DataError if all masks together do not tell, or if those of a split are all alike."""
    decision = decide(found.records, config)
    if decision.problems:
        raise DataError(decision.problems[0])
    if decision.uniform:
        raise _uniform(root, *decision.uniform[0])
    for remark in (*found.remarks, *decision.remarks):
        log.warning("data set %s: %s", config.name, remark)
    return decision


def find(config: Data, root: Path | None) -> Listing:
    """What lies at the root, without decoding. Raises DataError if it is not there or not in the layout."""
    _check_root(config, root)
    try:
        found = LAYOUTS[config.layout].find(root, config)
    except DataError as error:
        raise elsewhere(root, config.name, config.layout) or error from None
    except OSError as error:
        raise DataError(f"{error.filename or root} cannot be read ({error.strerror}): allow reading it") from None
    remarks = found.remarks + slices.describe_slicing(found.records, config.axis)
    return Listing(found.records, found.problems + find_conflicts(found.records), remarks)


def _check_root(config: Data, root: Path | None) -> None:
    if config.layout == "synthetic":
        raise DataError(
            f"data set {config.name} has layout synthetic, which is drawn and has no files: "
            f"give the layout of the files, such as data.layout=folder (allowed are {', '.join(LAYOUTS)})"
        )
    if root is None:
        raise DataError(f"data set {config.name} has no root: give --data {config.name}=ROOT")
    if not root.is_dir():
        raise DataError(
            f"the root of data set {config.name} is {root}, which is not a folder: give --data {config.name}=ROOT anew"
        )
    check_name(root)
    for place, folders, files in os.walk(root):
        for name in (*folders, *files):
            if not name.isascii():
                check_name(Path(place, name))


def _held_out(config: Data, train: Split, test: Split) -> dict[str, Split]:
    """The splits to train and to test on: with data.held_out, both are parts of the training images.

    Those whose names, or groups, hash lowest are held out, whatever the seed. Raises DataError if either part would be
    empty.
    """
    if not config.held_out:
        return {"train": train, "test": test}
    rank = [hash_key(unit_name(group, name)) for group, name in zip(train.groups, train.names, strict=True)]
    train, test = hold_out(train, config.held_out, rank, "data.held_out", config.name)
    return {"train": train, "test": test}


def load_unlabelled(config: Data, records: list[Record], scaling: Scaling) -> Split:
    """Images without masks, decoded as those that a network was trained on. Raises DataError.

    Logs a warning for an image or a volume most of whose pixels lie outside of the range of the training images.
    """
    content = arrays.decoded(config, {"test": records}, trained=scaling.pixel_format)
    if content.channels not in (1, config.channels):
        raise DataError(
            f"{records[0].image} has {content.channels} channels, but the network was trained on {config.channels}"
        )
    split = _split(config, content, "test", scaling)
    if config.normalise != "case" and scaling.bits == 16:
        _warn_of_other_ranges(split)
    return split


def _warn_of_other_ranges(split: Split) -> None:
    scaling, cases = split.scaling, {}
    for record, pixels in zip(split.records, split.images, strict=True):
        cases.setdefault(record.image, []).append(pixels.flatten(1).int())
    for path, parts in cases.items():
        pixels = torch.cat(parts, 1).float()
        low, high = (torch.tensor(ends)[:, None] for ends in (scaling.low, scaling.high))
        outside = float(((pixels < low) | (pixels > high)).float().mean())
        span = float(((pixels.amax(1) - pixels.amin(1)) / (high - low)[:, 0]).max())
        if outside > OUTSIDE or span < SPAN:
            log.warning(
                "%s does not fit the training images: %.0f %% of its pixels lie outside of their range, and it spans "
                "%.0f %% of that range; are its numbers in another unit?", path, 100 * outside, 100 * span,
            )  # fmt: skip


def _dataset(config: Data, content: arrays.Content, digest: str) -> Dataset:
    if config.normalise == "case":
        scaling = Scaling.full_range(content.channels, 16 if content.histogram.shape[1] > 256 else 8)
    else:
        scaling = Scaling.from_histogram(content.histogram, content.quantisation)
    splits = {split: _split(config, content, split, scaling) for split in content.parts}
    return Dataset(config.name, digest, **_held_out(config, **splits))


def _split(config: Data, content: arrays.Content, split: str, scaling: Scaling) -> Split:
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
        scaling=scaling,
        standard=config.normalise == "standard",
        channels=config.channels,
        device=torch.device("cpu"),
        case_statistics=_cases(part, scaling) if config.normalise == "case" else None,
        originals=tuple(map(tuple, part.originals.tolist())),
        records=content.records and content.records[split],
        digests=content.digests,
    )


def _cases(part: arrays.Part, scaling: Scaling) -> torch.Tensor:
    """float32 [N, 2, C]: mean and deviation of each case, of pixels scaled to [−1, 1]; those of constant images are 0 and 1."""
    top = scaling.high[0]
    mean, sd = part.statistics[:, 0], part.statistics[:, 1]
    sd = np.where(sd > 0, sd, top / 2)
    return torch.from_numpy(np.stack([2 * mean / top - 1, 2 * sd / top], 1)).float()
