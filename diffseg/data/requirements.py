"""What a data set must have before a network is trained on it: enough images, equal channels, a known foreground."""

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from diffseg.config import Data
from diffseg.data.cache import is_current
from diffseg.data.foreground import decide_foreground
from diffseg.data.layout_detection import check_command
from diffseg.data.layouts import check_root, list_images
from diffseg.data.listing import Listing
from diffseg.data.opening import Shape
from diffseg.data.partition import (
    MOST_HELD_OUT,
    assign_splits,
    count_held_out,
    held_out_share,
    limit_records,
    unit_name,
)
from diffseg.data.records import Record, in_parallel
from diffseg.data.rule_inference import ForegroundDecision
from diffseg.errors import DataError

log = logging.getLogger(__name__)
ENOUGH_UNITS = 30  # held-out images, patients or volumes, from which searches are not warned of chance


def examine(config: Data, root: Path | None, cache: Path | None = None) -> Listing:
    """List the images at the root after a check of names, splits, patients, headers, and the values of all masks.

    If the cache holds what was decoded from these files, headers and masks are not read, and the records are returned as
    listed; else they carry the rule of their foreground. Writes nothing.

    Raises DataError for the first fault, with the sentence of `load`.
    """
    root = check_root(config, root)
    found = list_images(config, root)
    _raise_first(config, root, found.problems)
    if cache and is_current(cache, config, root):
        _check_counts(config, root, found.records)
        return found
    check_consistency(config, root, found.records)
    return replace(found, records=_decide_foreground(config, root, found).apply(found.records))


def check_consistency(config: Data, root: Path, records: Sequence[Record]) -> None:
    """Raise DataError for too few images or patients, unequal sizes of image and mask, or channels that do not fit.

    Reads the headers of all files; decodes nothing.
    """
    _check_counts(config, root, records)
    firsts = list({record.image: record for record in records}.values())  # one slice of each volume
    checked = in_parallel(_check_header, firsts)
    _raise_first(config, root, [problem for problem in checked if isinstance(problem, str)])
    shapes = [shape for shape in checked if isinstance(shape, Shape)]
    counts = [1 if config.channels == 1 and shape.channels == 3 else shape.channels for shape in shapes]
    for record, count in zip(firsts, counts, strict=True):
        if count not in (1, max(counts)):
            raise DataError(
                f"{record.image} has {count} channels, others have {max(counts)}: "
                "all images of a data set must have the same number of channels"
            )
    check_channels(config, root, max(counts))


def check_channels(config: Data, root: Path, channels: int) -> None:
    """Raise DataError unless the images have one channel or data.channels channels."""
    if channels not in (1, config.channels):
        raise DataError(
            f"the images of {root} have {channels} channels, but data.channels is {config.channels}: "
            f"set data.channels={channels}"
        )


def _check_header(record: Record) -> Shape | str:
    """Return the shape of an image, or the fault of its header or of a mask's."""
    try:
        return record.check_headers()
    except DataError as error:
        return str(error)


def _raise_first(config: Data, root: Path, problems: Sequence[str]) -> None:
    """Raise DataError for the first problem, if there is one, with the command that lists all of them."""
    if not problems:
        return
    more = f" (and {len(problems) - 1} more: {check_command(root, config)} lists them)" if len(problems) > 1 else ""
    raise DataError(problems[0] + more)


def _check_counts(config: Data, root: Path, found: Sequence[Record]) -> None:
    """Raise DataError if a split would have no images, the training split a single one, or none could be held out."""
    records = assign_splits(found, config.split_seed, masks=False)  # masks change which are drawn, not how many
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
    units = _training_units(config, records)
    if config.calibration:
        count_held_out(units, config.calibration, "data.calibration", config.name)
    if config.held_out:
        count_held_out(units, held_out_share(config, units), "data.held_out", config.name)


def describe_few_held_out(config: Data, found: Sequence[Record]) -> str | None:
    """Return a sentence if data.held_out_least raises the share that is held out, or if a larger share would help.

    It would if fewer than ENOUGH_UNITS images, patients or volumes are held out.

    found: The records as listed.
    """
    units = set(_training_units(config, assign_splits(found, config.split_seed, masks=False)))
    own, share = held_out_share(config, units), min(MOST_HELD_OUT, math.ceil(100 * ENOUGH_UNITS / len(units)) / 100)
    held = round(own * len(units))
    name = "patients or volumes" if any(record.group is not None for record in found) else "images"
    if own > config.held_out:
        return (
            f"about {held} of {len(units)} {name} are held out, and not a share of {config.held_out:g}, since "
            f"data.held_out_least={config.held_out_least} asks for more: data.held_out_least=0 keeps the share"
        )
    if held >= ENOUGH_UNITS or share <= own:
        return None
    return (
        f"about {held} of {len(units)} {name} are held out (data.held_out={own:.3g}), by which small differences "
        f"cannot be told from chance: data.held_out={share:g} would hold out {round(share * len(units))}"
    )


def count_calibration_units(config: Data, found: Sequence[Record]) -> int:
    """Return about how many images, or patients if they are known, data.calibration leaves to choose a threshold by.

    found: The records as listed.
    """
    units = _training_units(config, assign_splits(found, config.split_seed, masks=False))
    return round(config.calibration * len(set(units)))


def _training_units(config: Data, records: Sequence[Record]) -> list[str]:
    """Return the unit of each training image, given records with splits."""
    training = limit_records([record for record in records if record.split == "train"], config.train_images)
    return [unit_name(record.group, record.name) for record in training]


def _decide_foreground(config: Data, root: Path, found: Listing) -> ForegroundDecision:
    """Decide which pixels of the masks are foreground, and log what was decided.

    Raises DataError if the masks leave it open, or if all masks of a split are empty or full.
    """
    decision = decide_foreground(found.records, config)
    _raise_first(config, root, decision.problems)
    if decision.uniform:
        raise DataError(decision.uniform[0].describe(root))
    for remark in (*found.remarks, *decision.remarks):
        log.warning("data set %s: %s", config.name, remark)
    return decision
