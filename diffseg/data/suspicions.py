"""What does not keep a data set from being used but makes its results doubtful, one sentence each."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from diffseg.data.duplicates import find_copies, find_lookalikes
from diffseg.data.findings import SPLITS, ImageFindings, SplitFindings
from diffseg.data.layout_detection import list_unused
from diffseg.data.partition import unit_name
from diffseg.data.records import Record
from diffseg.labels.classes import IGNORED
from diffseg.nouns import patients

FULL = 0.95  # share of foreground above which a mask looks inverted
P_VALUE = 0.001  # below which splits differ by more than chance
RATIO = 1.5  # of the splits' mean foreground, above which a difference matters
EMPTIER = 0.1  # difference in the splits' share of empty masks, above which it matters
SPREAD = 0.15  # a usual standard deviation of IoU between images
WIDE = 0.1  # half-width of a 95 % interval of IoU, above which it says nothing
MOST_UNITS = 10_000  # images or patients that are asked for
SLICED = re.compile(r"(?P<stem>.*\d.*?)[_\-. ]+(?:slice|sl|s|z|frame|f|image|img|im|t)?[_\-. ]*\d+", re.IGNORECASE)
OF_A_STEM = 3  # images of a stem, on average, from which on it looks like a patient


def find_suspicions(
    images: Sequence[ImageFindings],
    root: Path,
    records: Sequence[Record],
    problems: Sequence[str] = (),
    wanted: float = WIDE,
) -> tuple[str, ...]:
    """Return a sentence for everything that looks wrong.

    Args:
        images: Those that can be read.
        root: Of the data set.
        records: All images, with their split.
        problems: Sentences that are reported already. Files and folders that they begin with are not reported as unused.
        wanted: Half-width of the 95 % interval of IoU, above which there are too few test images.
    """
    return (
        *find_copies(images),
        *find_lookalikes(images),
        *_find_patients_in_names(images),
        *_find_too_few(images, wanted),
        *_find_differences(images),
        *_find_mixtures(images),
        *_find_inverted(images),
        *_find_absent_classes(images),
        *_find_absent_ignored(images),
        *_find_unused(root, records, problems),
    )


def _find_patients_in_names(images: Sequence[ImageFindings]) -> list[str]:
    """Report names that share a stem before a number, as slices of a patient do, if a stem is in both splits.

    Applies where no groups are known, to at least two stems of OF_A_STEM images on average, which most images have.
    """
    if any(image.record.group is not None for image in images):
        return []
    splits: dict[str, set[str | None]] = {}
    counts: Counter[str] = Counter()
    for image in images:
        if match := SLICED.fullmatch(image.record.name):
            splits.setdefault(match["stem"], set()).add(image.record.split)
            counts[match["stem"]] += 1
    both = [stem for stem, found in splits.items() if len(found) > 1]
    many = counts.total() >= max(OF_A_STEM * len(splits), len(images) / 2)
    if len(splits) < 2 or not many or not both:
        return []
    return [
        f"the names look like those of several images a patient, such as {both[0]} with {counts[both[0]]}, and "
        f"{len(both)} of {len(splits)} would be in both splits: if they are patients or volumes, give them in split.csv "
        "with the columns name and group"
    ]


def _find_too_few(images: Sequence[ImageFindings], wanted: float) -> list[str]:
    """Report that there are fewer test images, or test patients, than an interval as narrow as wanted needs."""
    tested = [image.record for image in images if image.record.split == "test"]
    count = len({unit_name(record.group, record.name) for record in tested})
    wide = _half_width(count)
    if not count or wide <= wanted:
        return []
    grouped = any(image.record.group for image in images)
    one, several = (patients(1), patients(2)) if grouped else ("image", "images")
    least = next((n for n in range(2, MOST_UNITS) if _half_width(n) <= wanted), MOST_UNITS)
    interval = f"is known to ±{100 * wide:.1f} points (95 %)" if wide < 1 else "is not known at all"
    return [
        f"only {count} test {one if count == 1 else several}: with {count} the mean IoU {interval}, assuming a standard "
        f"deviation of {100 * SPREAD:g} points between {several}; ±{100 * wanted:g} points are wanted, so give at least {least}"
    ]


def _half_width(count: int) -> float:
    """Return the half-width of the 95 % confidence interval of the mean IoU of images whose IoU deviates by SPREAD."""
    from scipy.stats import t

    return float(SPREAD * t.ppf(0.975, count - 1) / count**0.5) if count > 1 else np.inf


def _find_differences(images: Sequence[ImageFindings]) -> list[str]:
    """Report that splits differ in foreground or in empty masks, by more than chance and by enough to matter."""
    foreground = _average_by_unit(images, lambda image: image.foreground)
    empty = _average_by_unit(images, lambda image: image.empty / image.raters)
    found = []
    train, test = (float(np.mean(values)) if values else 0.0 for values in foreground)
    if max(train, test) > RATIO * min(train, test) and _is_significant(*foreground):
        found.append(
            f"masks of the splits differ: {train:.1%} foreground in training, {test:.1%} in testing: check that they are of "
            "the same kind"
        )
    train, test = (float(np.mean(values)) if values else 0.0 for values in empty)
    if abs(train - test) > EMPTIER and _is_significant(*empty):
        found.append(
            f"{train:.0%} of the training masks are empty, but {test:.0%} of the test masks: draw the split again unless "
            "that is meant"
        )
    return found


def _average_by_unit(
    images: Iterable[ImageFindings], value: Callable[[ImageFindings], float]
) -> tuple[list[float], list[float]]:
    """Return the mean of each patient, volume or single image, of the training and of the test split."""
    found: dict[str, dict[str, list[float]]] = {split: {} for split in SPLITS}
    for image in images:
        if split := image.record.split:
            found[split].setdefault(unit_name(image.record.group, image.record.name), []).append(value(image))
    train, test = ([float(np.mean(values)) for values in units.values()] for units in found.values())
    return train, test


def _is_significant(a: Sequence[float], b: Sequence[float]) -> bool:
    """Return whether two samples differ significantly by a Mann-Whitney test."""
    from scipy.stats import mannwhitneyu

    return bool(a and b) and bool(mannwhitneyu(a, b).pvalue < P_VALUE)


def _find_mixtures(images: Sequence[ImageFindings]) -> list[str]:
    """Report images of different depths or numbers of channels. Volumes share one map of their numbers, so may differ."""
    depths = [] if all(image.record.quantised_volume for image in images) else [image.bits for image in images]
    return [
        *_describe_mixture(images, depths, "bits a channel", "those of fewer are spread over the range of the others"),
        *_describe_mixture(images, [image.channels for image in images], "channels", "gray ones are repeated"),
    ]


def _describe_mixture(images: Sequence[ImageFindings], values: Sequence[int], what: str, consequence: str) -> list[str]:
    """Return a sentence if the images' values differ, with an image of the rarest value."""
    counts = Counter(values)
    if len(counts) < 2:
        return []
    rare = min(counts, key=counts.__getitem__)
    example = images[values.index(rare)].record.image
    parts = " and ".join(f"{count} of {value}" for value, count in sorted(counts.items()))
    return [f"images differ in {what} ({parts}, such as {example} of {rare}): {consequence}; check that this is meant"]


def _find_inverted(images: Sequence[ImageFindings]) -> list[str]:
    """Report masks with foreground nearly everywhere, of any rater."""
    found = [
        image.record.annotations[rater]
        for image in images
        for rater, share in enumerate(image.foreground_by_rater)
        if share > FULL and not image.record.classes.values
    ]
    return [f"nearly all of {_name_first(found)} is foreground: check that it is not inverted"] if found else []


def _find_absent_classes(images: Sequence[ImageFindings]) -> list[str]:
    """Report classes without a pixel in the masks of a split."""
    found = []
    for split, consequence in (("train", "no network can learn it"), ("test", "nothing can be measured of it")):
        part = SplitFindings.from_images([image for image in images if image.record.split == split])
        kind = {"train": "training"}.get(split, split)
        found += [
            f"class {name} occurs in no {kind} mask, so {consequence}: check its values in data.classes"
            for name, own in part.classes.items()
            if not own.images
        ]
    return found


def _find_absent_ignored(images: Sequence[ImageFindings]) -> list[str]:
    """Report values of data.ignore that no mask has."""
    if not images or not images[0].record.classes.ignored or any(image.numbers[IGNORED] for image in images):
        return []
    return ["no mask has a pixel of data.ignore: leave it out, or check its values"]


def _find_unused(root: Path, records: Sequence[Record], problems: Sequence[str]) -> list[str]:
    """Report files below the root that are part of no record and of no problem."""
    unused = list_unused(root, {file for record in records for file in record.files})
    unused = [path for path in unused if not _is_reported(path, root, problems)]
    return [f"{_name_first(unused)} is not used"] if unused else []


def _is_reported(path: Path, root: Path, problems: Sequence[str]) -> bool:
    """Return whether a problem begins with the file, or with a folder below the root that it lies in."""
    places = [path, *(folder for folder in path.parents if root in folder.parents)]
    return any(problem.startswith(tuple(f"{place} " for place in places)) for problem in problems)


def _name_first(paths: Sequence[Path]) -> str:
    """Return the first path, and the number of the others."""
    return f"{paths[0]} (and {len(paths) - 1} more)" if paths[1:] else str(paths[0])
