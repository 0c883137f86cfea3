"""What a data set on disk holds, everything that is wrong with it or looks so, and a contact sheet of it."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from diffseg.config import Data
from diffseg.data import find
from diffseg.data.records import Record, Sample, in_parallel
from diffseg.data.survey import decide
from diffseg.errors import DataError

SPLITS = ("train", "test")
SHOWN = {"train": 12, "test": 6}  # images on the contact sheet
COLUMNS, SIDE, GAP, LABEL = 6, 200, 8, 14  # of the sheet: images a row, and px
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#d55e00")  # of raters (Okabe & Ito, 2008)
FULL = 0.95  # share of foreground above which a mask looks inverted


@dataclass(frozen=True)
class SplitFindings:
    images: int  # that can be read
    groups: int | None  # patients or volumes, where the layout tells
    smallest: tuple[int, int] | None  # height and width, px
    largest: tuple[int, int] | None
    channels: tuple[int, ...]  # that occur
    bits: tuple[int, ...]  # a channel
    raters: int | None
    foreground: tuple[float, float, float] | None  # least, mean and greatest share of the pixels
    empty_masks: int  # of all raters' masks
    objects: float | None  # mean number an image


@dataclass(frozen=True)
class Findings:
    name: str
    splits: dict[str, SplitFindings]
    problems: tuple[str, ...]  # that keep it from being used, one sentence each
    suspicions: tuple[str, ...]  # that do not
    sheet: Image.Image | None

    def to_dict(self) -> dict:
        return {
            "name": self.name,
            "splits": {split: asdict(part) for split, part in self.splits.items()},
            "problems": self.problems,
            "suspicions": self.suspicions,
        }

    def __str__(self) -> str:
        lines = [f"{self.name}: {_line(split, part)}" for split, part in self.splits.items()]
        lines += [f"suspicious: {suspicion}" for suspicion in self.suspicions]
        lines += [f"problem: {problem}" for problem in self.problems] or ["No problem found."]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Row:
    record: Record
    size: tuple[int, int]
    channels: int
    bits: int
    raters: int
    foreground: float
    empty: int
    objects: int
    pixels: bytes  # hash of them
    thumbnail: Image.Image | None


def check(config: Data, root: Path, on_progress: Callable[[int, int], None] | None = None) -> Findings:
    """Decode everything at full size and tell what it is. Raises DataError if it is not in the layout at all."""
    found = find(config, root)
    decision = decide(found.records, config.foreground, config.objects if config.layout == "folder" else False)
    rule = "nonzero" if decision.problems else decision.rule  # so that the rest can be looked at all the same
    found = replace(found, records=tuple(replace(record, foreground=rule) for record in found.records))
    shown = {id(record) for split in SPLITS for record in _spread(found.records, split)}
    looked = in_parallel(lambda record: _look(record, config, id(record) in shown), found.records, on_progress)
    rows = [row for row in looked if isinstance(row, _Row)]
    problems = [*found.problems, *decision.problems, *(row for row in looked if isinstance(row, str))]
    splits = {split: _summary([row for row in rows if row.record.split == split]) for split in SPLITS}
    problems += [
        f"{config.name} has no {split} images that can be read" for split in SPLITS if not splits[split].images
    ]
    problems += _without_contrast(splits)
    suspicions = (*found.remarks, *decision.remarks, *_copies(rows), *_inverted(rows), *_unused(root, found.records))
    return Findings(config.name, splits, tuple(problems), suspicions, _sheet(rows))


def _without_contrast(splits: dict[str, SplitFindings]) -> list[str]:
    """A problem for every split whose masks are all empty, or all full."""
    found = {split: part.foreground for split, part in splits.items() if part.foreground}
    return [
        f"all {splits[split].images} {split} masks are {'full' if low else 'empty'}: nothing can be learnt or measured of them"
        for split, (low, _, high) in found.items()
        if low == high and low in (0, 1)
    ]


def _spread(records: Sequence[Record], split: str) -> list[Record]:
    own = [record for record in records if record.split == split]
    places = np.linspace(0, len(own) - 1, min(SHOWN[split], len(own))).round().astype(int)
    return [own[place] for place in places]


def _look(record: Record, config: Data, shown: bool) -> _Row | str:
    """What one image is, or what is wrong with it."""
    try:
        sample = record.read(config.channels)
    except DataError as error:
        return str(error)
    image, masks = sample.image, sample.masks
    return _Row(
        record=record,
        size=masks.shape[1:],
        channels=image.shape[2],
        bits=8 * image.itemsize,
        raters=len(masks),
        foreground=float(masks.mean()),
        empty=int((~masks.any((1, 2))).sum()),
        objects=sample.objects,
        pixels=hashlib.sha256(np.ascontiguousarray(image)).digest(),
        thumbnail=_thumbnail(sample) if shown else None,
    )


def _summary(rows: list[_Row]) -> SplitFindings:
    if not rows:
        return SplitFindings(0, None, None, None, (), (), None, None, 0, None)
    groups = {row.record.group for row in rows} - {None}
    heights, widths = zip(*(row.size for row in rows), strict=True)
    shares = [row.foreground for row in rows]
    return SplitFindings(
        images=len(rows),
        groups=len(groups) or None,
        smallest=(min(heights), min(widths)),
        largest=(max(heights), max(widths)),
        channels=tuple(sorted({row.channels for row in rows})),
        bits=tuple(sorted({row.bits for row in rows})),
        raters=rows[0].raters,
        foreground=(min(shares), sum(shares) / len(shares), max(shares)),
        empty_masks=sum(row.empty for row in rows),
        objects=sum(row.objects for row in rows) / len(rows),
    )


def _line(split: str, part: SplitFindings) -> str:
    if not part.images:
        return f"{split}: no images"
    low, mean, high = part.foreground
    sizes = " × ".join(map(str, part.smallest[::-1]))
    if part.largest != part.smallest:
        sizes += " to " + " × ".join(map(str, part.largest[::-1]))
    channels, bits = (" or ".join(map(str, x)) for x in (part.channels, part.bits))
    return (
        f"{split}: {part.images} images of {sizes} px, {channels} channel{'s' * (channels != '1')} of {bits} bits"
        + (f", of {part.groups} patients or volumes" if part.groups else "")
        + f"; foreground {mean:.1%} ({low:.1%} to {high:.1%}), {part.objects:.1f} objects an image, "
        + f"{part.raters} rater{'s' * (part.raters != 1)}, {part.empty_masks} empty masks"
    )


def _copies(rows: list[_Row]) -> list[str]:
    """One sentence for every image that is there more than once; across splits that makes results too good."""
    same: dict[bytes, list[Record]] = {}
    for row in rows:
        same.setdefault(row.pixels, []).append(row.record)
    found = []
    for records in same.values():
        if len(records) > 1:
            across = " in training and testing" if len({record.split for record in records}) > 1 else ""
            found.append(f"{records[0].image} and {records[1].image} hold the same image{across}")
    return found if len(found) <= 3 else [*found[:2], f"{len(found) - 2} more images are there more than once"]


def _inverted(rows: list[_Row]) -> list[str]:
    found = [row.record.annotations[0] for row in rows if row.foreground > FULL]
    return [f"nearly all of {_one_of(found)} is foreground: inverted?"] if found else []


def _unused(root: Path, records: Sequence[Record]) -> list[str]:
    used = {file for record in records for file in record.files}
    there = (Path(folder) / name for folder, _, names in os.walk(root) for name in names if not name.startswith("."))
    left = sorted(path for path in there if path not in used and path.suffix.lower() not in (".csv", ".txt", ".md"))
    return [f"{_one_of(left)} is not used"] if left else []


def _one_of(paths: Sequence[Path]) -> str:
    return f"{paths[0]} (and {len(paths) - 1} more)" if paths[1:] else str(paths[0])


def _thumbnail(sample: Sample) -> Image.Image:
    """The image, at most SIDE px, with every rater's contour."""
    from scipy.ndimage import binary_erosion

    height, width = sample.masks.shape[1:]
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    pixels = sample.image.astype(np.float32)
    if sample.image.dtype != np.uint8:
        low, high = np.percentile(pixels, (0.5, 99.5))
        pixels = 255 * (pixels.clip(low, high) - low) / max(high - low, 1)
    pixels = pixels if pixels.shape[2] == 3 else pixels.mean(2, keepdims=True).repeat(3, 2)
    picture = np.array(Image.fromarray(pixels.astype(np.uint8)).resize(size, Image.Resampling.BOX))
    for rater, mask in enumerate(sample.masks):
        small = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        colour = COLOURS[rater % len(COLOURS)]
        picture[small & ~binary_erosion(small)] = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return Image.fromarray(picture)


def _sheet(rows: list[_Row]) -> Image.Image | None:
    """Images of both splits with their contours and names, COLUMNS a row."""
    shown = {split: [row for row in rows if row.thumbnail and row.record.split == split] for split in SPLITS}
    cells: list[tuple[_Row, int, int]] = []
    height = GAP
    for split in SPLITS:
        for first in range(0, len(shown[split]), COLUMNS):
            cells += [
                (row, GAP + k * (SIDE + GAP), height) for k, row in enumerate(shown[split][first : first + COLUMNS])
            ]
            height += SIDE + LABEL + GAP
    if not cells:
        return None
    sheet = Image.new("RGB", (GAP + min(COLUMNS, len(cells)) * (SIDE + GAP), height), "white")
    draw = ImageDraw.Draw(sheet)
    for row, left, top in cells:
        sheet.paste(row.thumbnail, (left + (SIDE - row.thumbnail.width) // 2, top + (SIDE - row.thumbnail.height) // 2))
        text = f"{row.record.split} {row.record.name}"
        while len(text) > 1 and draw.textlength(text) > SIDE:
            text = text.removesuffix("…")[:-1] + "…"
        draw.text((left, top + SIDE), text, fill="black")
    return sheet
