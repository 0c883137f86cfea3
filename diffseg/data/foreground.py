"""Decide by all masks of a data set what they hold: the foreground, or the named classes; raters or objects."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffseg.config import Data
from diffseg.data.mask_forms import ImageMasks, decide_form
from diffseg.data.mask_histogram import MaskHistogram
from diffseg.data.mask_statistics import MaskStatistics
from diffseg.data.masks import HALF, ForegroundRule, MaskPixels
from diffseg.data.numbering import blank_ignored, find_unlisted, is_labelled, number_pixels
from diffseg.data.records import Record, in_parallel
from diffseg.data.rule_check import find_blurred_ignored, find_fault, find_other_palette
from diffseg.data.rule_inference import ForegroundDecision, infer_rule
from diffseg.data.uniform_masks import UniformMasks
from diffseg.errors import DataError
from diffseg.labels.classes import IGNORED, Classes


def decide_foreground(records: Sequence[Record], config: Data) -> ForegroundDecision:
    """Return the rule of the foreground, by data.foreground or else by all masks, and the problems with it.

    If classes are named, the problems are those with their values, and the rule means nothing.
    Masks that cannot be read are left out.
    """
    rule = config.foreground
    stored = [record for record in records if record.stores_labels and record.annotations]
    images = in_parallel(_read_masks, stored)
    readable = [image for image in images if image]
    masks = MaskStatistics(tuple(mask for image in readable for mask in image.masks))
    if not masks.masks:
        useless = (
            f"data.foreground is given, but the layout {config.layout} itself says what the foreground is: leave it out"
            + ', and name labels in data.classes, such as {"enhancing": 4, "background": [1, 2]}'
            * (config.layout == "brats")
        )
        return ForegroundDecision(rule, problems=(useless,) if rule and records and not stored else ())
    form = decide_form(stored, readable, masks, config)
    if config.classes:
        decision = _check_classes(masks, readable, Classes.of(config))
    else:
        given = rule or form.rule
        decision = _check_rule(masks, given) if given else infer_rule(masks)
        if config.ignore and (fault := find_blurred_ignored(masks, config.ignore)):
            decision = replace(decision, problems=(fault,))
    problems, remarks = (*decision.problems, *form.problems), (*decision.remarks, *form.remarks)
    decision = replace(decision, problems=problems, remarks=remarks, form=form.name)
    if not decision.problems and len(readable) == len(stored):
        decision = replace(decision, uniform=_find_uniform(stored, readable, decision.rule))
    return decision


def _read_masks(record: Record) -> ImageMasks | None:
    """Count the values of a record's masks. None if a mask cannot be read, which is reported where the image is decoded."""
    try:
        labels = [record.read_labels(path) for path in record.annotations]
    except DataError:
        return None
    classes = record.classes
    masks = tuple(MaskHistogram.from_labels(*one, classes) for one in zip(record.annotations, labels, strict=True))
    listed = masks if classes.values else ()
    faults = {mask.path: fault for mask in listed if (fault := find_unlisted(mask.path, mask.values, classes))}
    if faults or len(masks) == 1 or len({one.pixels.shape[:2] for one in labels}) > 1:
        return ImageMasks(masks, 0.0, 0, faults)
    marks = [_mark(path, one, classes) for path, one in zip(record.annotations, labels, strict=True)]
    depth = np.sum(marks, 0)
    overlap = (depth > 1).sum() / max(1, (depth > 0).sum())
    return ImageMasks(masks, float(overlap), sum(bool(mark.any()) for mark in marks))


def _mark(path: Path, labels: MaskPixels, classes: Classes) -> np.ndarray:
    """Return which pixels of a mask are probably foreground, before the foreground is decided; bool [H, W]."""
    if classes.values:
        return is_labelled(number_pixels(path, labels, classes))
    gray = (blank_ignored(labels, classes.ignored)[0] if classes.ignored else labels).to_gray()
    marks: np.ndarray = gray >= (HALF if gray.max() >= HALF else 1)
    return marks


def _check_rule(masks: MaskStatistics, rule: ForegroundRule) -> ForegroundDecision:
    """Return the given rule, with a problem if it does not fit the masks."""
    fault = find_fault(masks, rule)
    return ForegroundDecision(rule, (fault,) if fault else ())


def _check_classes(masks: MaskStatistics, images: Sequence[ImageMasks], classes: Classes) -> ForegroundDecision:
    """Return the problems of masks whose classes are named: unlisted values, one for each file, and differing palettes."""
    faults = {path: fault for image in images for path, fault in image.faults.items()}
    named = [value for own in (*classes.values, classes.background, classes.ignored) for value in own]
    numbers = tuple(value for value in named if isinstance(value, int))
    other = find_other_palette(masks, numbers, lambda colour: f'list colours, such as "{colour}", in data.classes')
    return ForegroundDecision((), (*faults.values(), *([other] if other else [])))


def _find_uniform(
    records: Sequence[Record], images: Sequence[ImageMasks], rule: ForegroundRule
) -> tuple[UniformMasks, ...]:
    """Return the splits whose masks are all empty or all full. Masks without a split count together."""
    found = []
    for split in sorted({record.split or "" for record in records}):
        masks = [
            mask
            for record, image in zip(records, images, strict=True)
            if not split or record.split in (split, None)
            for mask in image.masks
        ]
        classes = records[0].classes
        counts = np.zeros(256)
        for mask in masks:
            counts += mask.count_numbers(classes, rule)
        if (counts[:IGNORED] > 0).sum() < 2:
            found.append(UniformMasks(split, len(masks), bool(counts[1:IGNORED].any()), bool(classes.values)))
    return tuple(found)
