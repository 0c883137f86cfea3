"""What does not keep a data set from being used but makes its results doubtful, one sentence each."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from diffseg.data.findings import SPLITS, Row
from diffseg.data.partition import unit_name
from diffseg.data.recognise import unused
from diffseg.data.records import Record

FULL = 0.95  # share of foreground above which a mask looks inverted
DETAIL = 32, 1.5  # px a side of the thumbnails that are compared, and the deviation of the blur that is taken off, px
ALIKE = (
    0.85  # correlation of their details: of different lesions of ISIC16 at most 0.75, of neighbouring CT slices 0.90
)
CHUNK = 2048  # test images compared at once
P_VALUE = 0.001  # below which splits differ by more than chance
RATIO, EMPTIER = 1.5, 0.1  # of their mean foreground, and difference in the share of empty masks, that then matter
SPREAD, WIDE = 0.15, 0.1  # a usual deviation of IoU between images, and the half-width of an interval that says nothing
SLICED = re.compile(r"(?P<stem>.*\d.*?)[_\-. ]+(?:slice|sl|s|z|frame|f|image|img|im|t)?[_\-. ]*\d+", re.IGNORECASE)
OF_A_STEM = 3  # images of a stem, on average, from which on it looks like a patient


def suspicions(
    rows: Sequence[Row], root: Path, records: Sequence[Record], problems: Sequence[str] = ()
) -> tuple[str, ...]:
    """rows: the images that can be read; records: all of them, with their split; problems: what is said of files already."""
    return (
        *_copies(rows),
        *_alike(rows),
        *_patients_in_names(rows),
        *_few(rows),
        *_different(rows),
        *_mixed(rows),
        *_inverted(rows),
        *_unused(root, records, problems),
    )


def details(image: np.ndarray) -> np.ndarray:
    """The details of a thumbnail of an image [H, W, C], as float32 [D] of length 1; 0 for an image without any.

    Without the blurred thumbnail, that is without place, size and shading, which all images of a kind share.
    """
    from scipy.ndimage import gaussian_filter

    side, blur = DETAIL
    gray = Image.fromarray(image.mean(2, dtype=np.float32))
    small = np.asarray(gray.resize((side, side), Image.Resampling.BOX), np.float64)
    found = (small - gaussian_filter(small, blur)).ravel()
    found -= found.mean()
    length = np.linalg.norm(found)
    return (found / length if length > 1e-6 * np.abs(small).max() else 0 * found).astype(np.float32)


def _copies(rows: Sequence[Row]) -> list[str]:
    """One sentence for images that are there more than once; across splits that makes results too good."""
    same: dict[bytes, list[Record]] = {}
    for row in rows:
        if row.pixels:
            same.setdefault(row.pixels, []).append(row.record)
    found = []
    for records in same.values():
        if len(records) > 1:
            across = len({record.split for record in records}) > 1
            found.append((not across, f"{records[0].image} and {records[1].image} hold the same image", across))
    sentences = [sentence + " in training and testing" * across for _, sentence, across in sorted(found)]
    more = [f"{len(sentences) - 2} more images are there more than once"]
    return sentences if len(sentences) <= 3 else sentences[:2] + more


def _alike(rows: Sequence[Row]) -> list[str]:
    """Test images that look nearly like a training image but are no copies of one."""
    train, test = ([row for row in rows if row.record.split == split] for split in SPLITS)
    if not train or not test:
        return []
    known, pairs = np.stack([row.details for row in train]), []
    for first in range(0, len(test), CHUNK):
        some = test[first : first + CHUNK]
        likeness = np.stack([row.details for row in some]) @ known.T
        for row, best in zip(some, likeness.argmax(1), strict=True):
            value = float(row.details @ known[best])
            if value > ALIKE and row.pixels != train[best].pixels:
                pairs.append((value, row.record.image, train[best].record.image))
    if not pairs:
        return []
    value, image, other = max(pairs)
    return [
        f"{_images(len(pairs), 'test image')} {'look' if pairs[1:] else 'looks'} nearly like a training image, such as "
        f"{image} like {other} (their details correlate by {value:.2f}): neighbouring slices or edited copies make results "
        "too good, so keep each patient in one split, for example by the column group of split.csv"
    ]


def _patients_in_names(rows: Sequence[Row]) -> list[str]:
    """Names that end in a number after one that many share, as slices of a patient have them, in both splits."""
    if any(row.record.group is not None for row in rows):
        return []
    stems: dict[str, set[str]] = {}
    counts: Counter[str] = Counter()
    for row in rows:
        if match := SLICED.fullmatch(row.record.name):
            stems.setdefault(match["stem"], set()).add(row.record.split)
            counts[match["stem"]] += 1
    both = [stem for stem, splits in stems.items() if len(splits) > 1]
    if len(stems) < 2 or counts.total() < OF_A_STEM * len(stems) or 2 * counts.total() < len(rows) or not both:
        return []
    return [
        f"the names look like those of several images a patient, such as {both[0]} with {counts[both[0]]}, and "
        f"{len(both)} of {len(stems)} would be in both splits: if they are patients or volumes, give them in split.csv "
        "with the columns name and group"
    ]


def _few(rows: Sequence[Row]) -> list[str]:
    """Fewer test images, or patients, than a comparison needs."""
    from scipy.stats import t

    units = {unit_name(row.record.group, row.record.name) for row in rows if row.record.split == "test"}
    count, grouped = len(units), any(row.record.group for row in rows)
    wide = SPREAD * t.ppf(0.975, count - 1) / count**0.5 if count > 1 else np.inf
    if not count or wide <= WIDE:
        return []
    what = "patient or volume" if grouped else "image"
    least = next(n for n in range(2, 100) if SPREAD * t.ppf(0.975, n - 1) / n**0.5 <= WIDE)
    interval = f"a 95 % interval would be ±{wide:.2f}" if wide < 1 else "a 95 % interval would hold every value"
    return [
        f"only {_images(count, f'test {what}')}: with a usual standard deviation of {SPREAD:g} in IoU, {interval}, so give "
        f"at least {least}"
    ]


def _different(rows: Sequence[Row]) -> list[str]:
    """Splits that differ in foreground or in empty masks by more than chance and by enough to matter."""
    foreground, empty = (
        [_by_unit((row for row in rows if row.record.split == split), value) for split in SPLITS]
        for value in (lambda row: row.foreground, lambda row: row.empty / row.raters)
    )
    found = []
    (a, b), (c, d) = ([np.mean(values) if values else 0.0 for values in pair] for pair in (foreground, empty))
    if max(a, b) > RATIO * min(a, b) and _differ(*foreground):
        found.append(
            f"masks of the splits differ: {a:.1%} foreground in training, {b:.1%} in testing: are they of the same kind?"
        )
    if abs(c - d) > EMPTIER and _differ(*empty):
        found.append(
            f"{c:.0%} of the training masks are empty, but {d:.0%} of the test masks: draw the split anew unless that is meant"
        )
    return found


def _by_unit(rows: Iterable[Row], value) -> list[float]:
    """The mean of each patient, volume or single image."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(unit_name(row.record.group, row.record.name), []).append(value(row))
    return [float(np.mean(values)) for values in found.values()]


def _differ(a: Sequence[float], b: Sequence[float]) -> bool:
    from scipy.stats import mannwhitneyu

    return bool(a and b) and mannwhitneyu(a, b).pvalue < P_VALUE


def _mixed(rows: Sequence[Row]) -> list[str]:
    """Images of several depths or numbers of channels."""
    found = []
    depths = (
        [] if all(row.record.quantised_volume for row in rows) else [row.bits for row in rows]
    )  # volumes share a map
    for what, values, does in (
        ("bits a channel", depths, "those of fewer are spread over the range of the others"),
        ("channels", [row.channels for row in rows], "gray ones are repeated"),
    ):
        counts = Counter(values)
        if len(counts) > 1:
            rare = min(counts, key=counts.__getitem__)
            example = rows[values.index(rare)].record.image
            parts = " and ".join(f"{count} of {value}" for value, count in sorted(counts.items()))
            found.append(f"images differ in {what} ({parts}, such as {example} of {rare}): {does}; is that meant?")
    return found


def _inverted(rows: Sequence[Row]) -> list[str]:
    found = [row.record.annotations[0] for row in rows if row.foreground > FULL]
    return [f"nearly all of {_one_of(found)} is foreground: inverted?"] if found else []


def _unused(root: Path, records: Sequence[Record], problems: Sequence[str]) -> list[str]:
    left = unused(root, {file for record in records for file in record.files})
    left = [path for path in left if not any(problem.startswith(f"{path} ") for problem in problems)]
    return [f"{_one_of(left)} is not used"] if left else []


def _one_of(paths: Sequence[Path]) -> str:
    return f"{paths[0]} (and {len(paths) - 1} more)" if paths[1:] else str(paths[0])


def _images(count: int, what: str) -> str:
    return f"{count} {what if count == 1 else {'test patient or volume': 'test patients or volumes'}.get(what, f'{what}s')}"
