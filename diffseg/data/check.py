"""Read a whole data set at full size: what it holds, what is wrong with it or looks wrong, and a contact sheet."""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffseg.config import Data
from diffseg.data import check_consistency, find
from diffseg.data.contact_sheet import choose_shown, draw_sheet, draw_thumbnail
from diffseg.data.decoding import share_quantisation
from diffseg.data.duplicates import compute_descriptor
from diffseg.data.findings import SPLITS, Findings, ImageFindings, SplitFindings
from diffseg.data.foreground import decide_foreground
from diffseg.data.numbering import count_numbers, is_labelled
from diffseg.data.partition import assign_splits
from diffseg.data.records import Record, in_parallel
from diffseg.data.suspicions import WIDE, find_suspicions
from diffseg.data.uniform_masks import UniformMasks
from diffseg.errors import DataError
from diffseg.labels.classes import IGNORED

SPECKS = 0.01  # share of a mask's labelled pixels that its smallest components together have if they are no objects
UNDECIDED = "the shares of foreground are those of all that is not 0, until the foreground is decided"


def check(
    config: Data, root: Path, on_progress: Callable[[int, int], None] | None = None, wanted: float = WIDE
) -> Findings:
    """Decode every image at full size and report what was found.

    Args:
        config: The data set's settings.
        root: The data set's folder.
        on_progress: Called with the number of images that are decoded, and of all.
        wanted: Half-width of the 95 % interval of the mean IoU that the test images should give, of 0 to 1.

    Raises:
        DataError: The root is not in the layout at all.
    """
    found = find(config, root)
    decision = decide_foreground(found.records, config)
    undecided = bool(decision.problems) and not config.classes
    if undecided:  # all else can be checked nevertheless
        decision = replace(decision, rule="nonzero")
    decided = decision.apply(found.records)
    records = _share_quantisation(config, assign_splits(decided, config.split_seed))
    images, unreadable = _read_all(records, config, on_progress)
    splits = {
        split: SplitFindings.from_images([image for image in images if image.record.split == split]) for split in SPLITS
    }
    problems = [*found.problems, *decision.problems, *_leave_out_reported(unreadable, decision.problems)]
    problems += _find_empty_splits(config, splits) if problems else _check_whole(config, root, found.records)
    problems += _find_uniform_masks(root, images)
    suspicions = find_suspicions(images, root, records, problems, wanted)
    doubts = (*found.remarks, *((UNDECIDED,) if undecided else ()), *decision.remarks, *suspicions)
    return Findings(config.name, root, splits, tuple(problems), doubts, draw_sheet(images), found.remarks)


def _share_quantisation(config: Data, records: Sequence[Record]) -> Sequence[Record]:
    """Set the map from numbers to pixels that all volumes share, as in training.

    Records stay as they are if a volume cannot be read, which is reported where it is decoded.
    """
    try:
        return share_quantisation(config, {"": list(records)}, None)[0][""]
    except DataError:
        return records


def _read_all(
    records: Sequence[Record], config: Data, on_progress: Callable[[int, int], None] | None
) -> tuple[list[ImageFindings], list[str]]:
    """Decode every image. Return the findings of those that can be read, and the problems of the others."""
    shown = {id(record) for split in SPLITS for record in choose_shown(records, split)}
    found = in_parallel(lambda record: _read(record, config, id(record) in shown), records, on_progress)
    images = [one for one in found if isinstance(one, ImageFindings)]
    return images, [one for one in found if isinstance(one, str)]


def _leave_out_reported(problems: Sequence[str], reported: Sequence[str]) -> list[str]:
    """Return the problems of files of which none is reported: a mask of unlisted values is found again in every slice."""
    files = {problem.partition(" has ")[0] for problem in reported}
    return [problem for problem in problems if problem.partition(" has ")[0] not in files]


def _read(record: Record, config: Data, shown: bool) -> ImageFindings | str:
    """Return the findings of one image, or why it cannot be read. shown: it gets a thumbnail for the contact sheet."""
    try:
        sample = record.read(config.channels)
    except DataError as error:
        return str(error)
    image, masks = sample.image, sample.masks
    by_rater = np.stack([count_numbers(mask, record.classes) for mask in masks])
    counts, labelled, valid = by_rater.sum(0), by_rater[:, 1:IGNORED].sum(1), by_rater[:, :IGNORED].sum(1)
    constant = image.min() == image.max()
    return ImageFindings(
        record=record,
        size=masks.shape[1:],
        channels=image.shape[2],
        bits=8 * image.itemsize,
        raters=len(masks),
        numbers=counts,
        foreground=float(labelled.sum() / max(valid.sum(), 1)),
        foreground_by_rater=tuple((labelled / valid.clip(1)).tolist()),
        agreement=measure_agreement(masks),
        empty=int((~is_labelled(masks).any((1, 2))).sum()),
        objects=sample.objects,
        diameters=_measure_diameters(masks[0]),
        pixels=None if constant else hashlib.sha256(np.ascontiguousarray(image).data).digest(),
        descriptor=compute_descriptor(image),
        thumbnail=draw_thumbnail(sample, record.classes) if shown else None,
    )


def measure_agreement(masks: np.ndarray) -> float | None:
    """Return the mean IoU between two raters' labelled pixels, of masks [R, H, W]; None for one rater.

    Two empty masks have an IoU of 1, as in the evaluation.
    """
    pairs = list(itertools.combinations(is_labelled(masks), 2))
    either = [np.count_nonzero(one | other) for one, other in pairs]
    ious = [
        np.count_nonzero(one & other) / union if union else 1.0
        for (one, other), union in zip(pairs, either, strict=True)
    ]
    return float(np.mean(ious)) if ious else None


def _measure_diameters(mask: np.ndarray) -> tuple[float, ...]:
    """Return the diameters of the largest circles within the connected components of a mask [H, W], px, but for specks.

    Of a vessel or a fibre it is the width, which decides how far an image can be made smaller. Specks are the smallest components
    that together have at most SPECKS of the labelled pixels. Drawn or thresholded masks have many: a tenth of ISIC16's components
    are single pixels.
    """
    from scipy import ndimage

    labels, count = ndimage.label(is_labelled(mask), np.ones((3, 3)))
    if count == 0:
        return ()
    areas = np.bincount(labels.ravel())[1:]
    order = np.argsort(areas)
    objects = order[np.cumsum(areas[order]) > SPECKS * areas.sum()] + 1
    radii = ndimage.maximum(ndimage.distance_transform_edt(labels), labels, objects)
    return tuple((2 * np.asarray(radii) - 1).tolist())


def _find_empty_splits(config: Data, splits: dict[str, SplitFindings]) -> list[str]:
    """Return a problem for every split without an image that can be read."""
    return [f"{config.name} has no {split} images that can be read" for split in SPLITS if not splits[split].images]


def _check_whole(config: Data, root: Path, records: Sequence[Record]) -> list[str]:
    """Return what is wrong with a data set whose files can all be read: too few images or patients, or other channels."""
    try:
        check_consistency(config, root, records)
    except DataError as error:
        return [str(error)]
    return []


def _find_uniform_masks(root: Path, images: Sequence[ImageFindings]) -> list[str]:
    """Return a problem for every split whose masks are all empty, or all full."""
    found = []
    for split in SPLITS:
        own = [image for image in images if image.record.split == split]
        counts = np.sum([image.numbers for image in own], 0)[:IGNORED] if own else np.ones(2)
        if (counts > 0).sum() < 2:
            masks = sum(image.raters for image in own)
            named = bool(own[0].record.classes.values)
            found.append(UniformMasks(split, masks, bool(counts[1:].any()), named).describe(root))
    return found
