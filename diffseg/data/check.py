"""Read a whole data set at full size: what it holds, everything that is wrong with it or looks so, and a contact sheet."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffseg.config import Data
from diffseg.data import check_consistency, find
from diffseg.data.decoding import share_quantisation
from diffseg.data.findings import SPLITS, Findings, Row, SplitFindings
from diffseg.data.listing import Listing
from diffseg.data.partition import assign_splits
from diffseg.data.records import Record, in_parallel
from diffseg.data.sheet import sheet, spread, thumbnail
from diffseg.data.survey import decide
from diffseg.data.suspicions import details, suspicions
from diffseg.errors import DataError


def check(config: Data, root: Path, on_progress: Callable[[int, int], None] | None = None) -> Findings:
    """Decode everything at full size and report what it is. Raises DataError if it is not in the layout at all."""
    found = find(config, root)
    decision = decide(found.records, config)
    rule = "nonzero" if decision.problems else decision.rule  # so that the rest can be looked at all the same
    records = assign_splits([replace(record, foreground=rule) for record in found.records], config.split_seed)
    records = _quantised(config, records)
    shown = {id(record) for split in SPLITS for record in spread(records, split)}
    looked = in_parallel(lambda record: _look(record, config, id(record) in shown), records, on_progress)
    rows = [row for row in looked if isinstance(row, Row)]
    problems = [*found.problems, *decision.problems, *(row for row in looked if isinstance(row, str))]
    splits = {split: SplitFindings.of([row for row in rows if row.record.split == split]) for split in SPLITS}
    problems += _as_a_whole(config, root, found) if not problems else _unreadable(config, splits)
    problems += _without_contrast(splits)
    unsure = ("the shares of foreground are of all that is not 0, until it is known",) if decision.problems else ()
    remarks = (*found.remarks, *unsure, *decision.remarks, *suspicions(rows, root, records, problems))
    return Findings(config.name, root, splits, tuple(problems), remarks, sheet(rows))


def _quantised(config: Data, records: list[Record]) -> list[Record]:
    """The records with the map that all volumes share, as training has it; unchanged if a volume cannot be read."""
    try:
        return share_quantisation(config, {"": records}, None)[0][""]
    except DataError:
        return records  # reported where the volume is decoded


def _without_contrast(splits: dict[str, SplitFindings]) -> list[str]:
    """A problem for every split whose masks are all empty, or all full."""
    found = {split: part.foreground for split, part in splits.items() if part.foreground}
    return [
        f"all {splits[split].images} {split} masks are {'full' if low else 'empty'}: nothing can be learnt or measured of them"
        for split, (low, _, high) in found.items()
        if low == high and low in (0, 1)
    ]


def _unreadable(config: Data, splits: dict[str, SplitFindings]) -> list[str]:
    return [f"{config.name} has no {split} images that can be read" for split in SPLITS if not splits[split].images]


def _as_a_whole(config: Data, root: Path, found: Listing) -> list[str]:
    """What is wrong with a data set whose files can all be read: too few images or patients, or other channels."""
    try:
        check_consistency(config, root, found.records)
    except DataError as error:
        return [str(error)]
    return []


def _look(record: Record, config: Data, shown: bool) -> Row | str:
    """What one image is, or what is wrong with it."""
    try:
        sample = record.read(config.channels)
    except DataError as error:
        return str(error)
    image, masks = sample.image, sample.masks
    plain = image.min() == image.max()
    return Row(
        record=record,
        size=masks.shape[1:],
        channels=image.shape[2],
        bits=8 * image.itemsize,
        raters=len(masks),
        foreground=float(masks.mean()),
        empty=int((~masks.any((1, 2))).sum()),
        objects=sample.objects,
        pixels=None if plain else hashlib.sha256(np.ascontiguousarray(image)).digest(),
        details=details(image),
        thumbnail=thumbnail(sample) if shown else None,
    )
