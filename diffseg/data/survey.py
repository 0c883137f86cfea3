"""Read all masks of a data set to decide what their foreground is, and whether several of an image are raters or objects."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from diffseg.config import Data
from diffseg.data.masks import HALF, Rule
from diffseg.data.records import Record, in_parallel
from diffseg.data.tally import Decision, Tally
from diffseg.data.values import Mask
from diffseg.errors import DataError


@dataclass(frozen=True)
class Looked:
    """The masks of one image."""

    masks: tuple[Mask, ...]
    overlap: bool  # whether a pixel is marked in several of them
    marked: int  # masks that are not empty


def decide(records: Sequence[Record], config: Data) -> Decision:
    """Decide by all masks of the records, data.foreground and data.objects. Unreadable masks are passed over."""
    rule = config.foreground
    objects = config.objects if config.layout == "folder" else False  # in other layouts several masks are raters
    stored = [record for record in records if record.stores_labels and record.annotations]
    every = in_parallel(_look, stored)
    looked = [one for one in every if one]
    tally = Tally(tuple(mask for one in looked for mask in one.masks))
    if not tally.masks:
        unused = (
            ("data.foreground is not used: these masks are no files of pixels",)
            if rule and records and not stored
            else ()
        )
        return Decision(rule, remarks=unused)
    found = tally.check(rule) if rule else tally.infer()
    several = [one for one in looked if one.marked > 1]
    if objects is None and several and not any(one.overlap for one in several):
        found = Decision(found.rule, (*found.problems, _never_overlap(several)), found.remarks)
    if not found.problems and None not in every:
        found = replace(found, uniform=_uniform(stored, every, found.rule))
    return found


def _uniform(records: Sequence[Record], looked: Sequence[Looked], rule: Rule) -> tuple[tuple[str, bool], ...]:
    """Decision.uniform: of splits that are given, or of all masks where they are to be drawn."""
    found = []
    for split in sorted({record.split or "" for record in records}):
        masks = [
            mask
            for record, own in zip(records, looked, strict=True)
            if not split or record.split in (split, None)
            for mask in own.masks
        ]
        marked, pixels = sum(mask.pixels(rule) for mask in masks), sum(int(mask.counts.sum()) for mask in masks)
        if marked in (0, pixels):
            kind = {"": "", "train": "training "}.get(split, f"{split} ")
            found.append((f"all {len(masks)} {kind}masks", bool(marked)))
    return tuple(found)


def _look(record: Record) -> Looked | None:
    try:
        labels = [record.read_labels(path) for path in record.annotations]
    except DataError:
        return None  # reported where the image is decoded
    masks = tuple(map(Mask.of, record.annotations, labels))
    if len(masks) == 1 or len({one.pixels.shape[:2] for one in labels}) > 1:
        return Looked(masks, False, 0)
    marks = [one.numbers() >= (HALF if one.numbers().max() >= HALF else 1) for one in labels]
    return Looked(masks, bool((np.sum(marks, 0) > 1).any()), sum(bool(mark.any()) for mark in marks))


def _never_overlap(several: list[Looked]) -> str:
    first, second = (mask.path for mask in several[0].masks[:2])
    return (
        f"{first} and {second.name} mark different places, and so do all masks of the {len(several)} images with several: "
        "if they are objects, data.objects=true unites them; if they are raters, set data.objects=false"
    )
