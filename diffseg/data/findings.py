"""What `diffseg data check` finds in an image, a split and a data set, and how it is printed."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffseg.data.records import Record
from diffseg.labels.classes import IGNORED
from diffseg.nouns import noun, patients

SPLITS = ("train", "test")
EXAMPLES = 3  # files of a kind of problem that are named


@dataclass(frozen=True)
class ImageFindings:
    """One image that can be read."""

    record: Record
    size: tuple[int, int]  # height, width, px
    channels: int
    bits: int  # of a channel
    raters: int
    numbers: np.ndarray  # int64 [256]: pixels of all masks by the number that they are decoded to
    foreground: float  # share of the pixels that are not ignored, the mean over raters
    foreground_by_rater: tuple[float, ...]  # the same of each rater's mask
    agreement: float | None  # mean IoU between two raters; None for a single one
    empty: int  # masks without foreground
    objects: int
    diameters: tuple[float, ...]  # of the largest circles within the mask's connected components but specks, px
    pixels: bytes | None  # a hash of the pixels; None if all are equal
    descriptor: np.ndarray  # float32 [D], of length 1 or 0: compared to find images that look alike
    thumbnail: Image.Image | None  # None of images that are not on the contact sheet


@dataclass(frozen=True)
class ClassFindings:
    """The pixels of a class in the masks of a split."""

    share: float  # of an image's pixels that are not ignored, the mean over images
    images: int  # that have the class

    @classmethod
    def from_images(cls, images: Sequence[ImageFindings], numbers: tuple[int, ...]) -> "ClassFindings":
        """Summarise the class of the given numbers."""
        counts = [int(image.numbers[list(numbers)].sum()) for image in images]
        valid = [max(1, int(image.numbers[:IGNORED].sum())) for image in images]
        shares = [count / whole for count, whole in zip(counts, valid, strict=True)]
        return cls(sum(shares) / len(images), sum(count > 0 for count in counts))


@dataclass(frozen=True)
class SplitFindings:
    """The images of a split that can be read."""

    images: int
    groups: int | None  # patients or volumes, where these are known
    smallest: tuple[int, int] | None  # height and width, px
    largest: tuple[int, int] | None
    channels: tuple[int, ...]  # that occur
    bits: tuple[int, ...]  # of a channel, that occur
    raters: int | None
    foreground: tuple[float, float, float] | None  # least, mean and greatest share of an image's pixels
    empty_masks: int  # of all raters
    objects: float | None  # mean number an image
    diameter: tuple[float, float] | None = (
        None  # of the masks' components but specks, px: the 10th percentile and the median
    )
    share: tuple[float, float] | None = None  # the same, as shares of √(height · width) of their image
    classes: dict[str, ClassFindings] = field(default_factory=dict)  # if classes are named
    ignored: float = 0.0  # share of all masks' pixels
    agreement: float | None = None  # mean IoU between two raters, the mean over images; None for a single one

    @classmethod
    def from_images(cls, images: Sequence[ImageFindings]) -> "SplitFindings":
        """Summarise the images of a split."""
        if not images:
            return cls(0, None, None, None, (), (), None, None, 0, None)
        groups = {image.record.group for image in images} - {None}
        heights, widths = zip(*(image.size for image in images), strict=True)
        shares = [image.foreground for image in images]
        numbers, classes = np.sum([image.numbers for image in images], 0), images[0].record.classes
        named = list(zip(classes.names, classes.numbers, strict=True)) if classes.values else []
        return cls(
            images=len(images),
            groups=len(groups) or None,
            smallest=(min(heights), min(widths)),
            largest=(max(heights), max(widths)),
            channels=tuple(sorted({image.channels for image in images})),
            bits=tuple(sorted({image.bits for image in images})),
            raters=images[0].raters,
            foreground=(min(shares), sum(shares) / len(shares), max(shares)),
            empty_masks=sum(image.empty for image in images),
            objects=sum(image.objects for image in images) / len(images),
            diameter=_summarise([one for image in images for one in image.diameters]),
            share=_summarise([one / math.prod(image.size) ** 0.5 for image in images for one in image.diameters]),
            classes={name: ClassFindings.from_images(images, own) for name, own in named},
            ignored=float(numbers[IGNORED] / numbers.sum()),
            agreement=_average([image.agreement for image in images if image.agreement is not None]),
        )

    def __str__(self) -> str:
        """Return the findings as one line."""
        if self.smallest is None or self.largest is None or self.foreground is None:
            return "no images"
        low, mean, high = self.foreground
        sizes = " × ".join(map(str, self.smallest[::-1]))
        if self.largest != self.smallest:
            sizes += " to " + " × ".join(map(str, self.largest[::-1]))
        channels, bits = (" or ".join(map(str, x)) for x in (self.channels, self.bits))
        return (
            f"{self.images} {noun(self.images, 'image')} of {sizes} px, {channels} channel{'s' * (channels != '1')} of {bits} bits"
            + (f", of {self.groups} {patients(self.groups)}" if self.groups else "")
            + f"; foreground {mean:.1%} ({low:.1%} to {high:.1%}), {self.objects:.1f} objects an image"
            + (
                f" (diameter {self.diameter[1]:.0f} px, of a tenth below {self.diameter[0]:.0f})"
                if self.diameter
                else ""
            )
            + ", "
            + f"{self.raters} rater{'s' * (self.raters != 1)}, {self.empty_masks} empty mask{'s' * (self.empty_masks != 1)}"
            + (f", {self.ignored:.1%} ignored" if self.ignored else "")
            + "".join(
                f"; {name} {one.share:.1%} in {one.images} {noun(one.images, 'image')}"
                for name, one in self.classes.items()
            )
        )


def _average(values: Sequence[float]) -> float | None:
    """Return the mean; None without values."""
    return sum(values) / len(values) if values else None


def _summarise(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 10th percentile and the median; None without values."""
    if not values:
        return None
    low, median = np.percentile(values, [10, 50])
    return float(low), float(median)


@dataclass(frozen=True)
class Findings:
    """Everything that was found in a data set."""

    name: str
    root: Path
    splits: dict[str, SplitFindings]
    problems: tuple[str, ...]  # sentences on what keeps the data set from being used
    suspicions: tuple[str, ...]  # sentences on what makes its results doubtful
    sheet: Image.Image | None  # the contact sheet; None if no image can be read
    remarks: tuple[str, ...] = ()  # sentences on how files were understood; they are among the suspicions, too

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "name": self.name,
            "splits": {split: asdict(part) for split, part in self.splits.items()},
            "problems": self.problems,
            "suspicions": self.suspicions,
        }

    def __str__(self) -> str:
        """Return a line for each split, each remark, each suspicion and each kind of problem, and two on several raters."""
        lines = [f"{self.name}: {split}: {part}" for split, part in self.splits.items()]
        lines += [f"{self.name}: {sentence}" for sentence in self._describe_raters()]
        lines += [f"note: {remark}" for remark in self.remarks]
        lines += [f"suspicious: {suspicion}" for suspicion in self.suspicions if suspicion not in self.remarks]
        lines += [f"problem: {_describe_kind(kind, self.root)}" for kind in group_by_kind(self.problems, self.root)]
        return "\n".join(lines if self.problems else [*lines, "No problem found."])

    def _describe_raters(self) -> list[str]:
        """Return how the masks of several raters are made one truth, and how far they agree; nothing for one rater."""
        raters = max(part.raters or 1 for part in self.splits.values())
        if raters == 1:
            return []
        who = "both raters" if raters == 2 else f"at least {raters // 2 + 1} of {raters} raters"
        agreement = [
            f"{part.agreement:.1%} in {split}" for split, part in self.splits.items() if part.agreement is not None
        ]
        return [
            f"iou and dice compare with what {who} marked, more than half",
            f"the mean IoU between two raters is {', '.join(agreement)}",
        ]


def group_by_kind(problems: Sequence[str], root: Path) -> list[list[str]]:
    """Group the sentences that differ only in the file, in numbers or in quoted words, in the order of their first."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        kinds.setdefault(_reduce_to_kind(problem, root), []).append(problem)
    return list(kinds.values())


def _describe_kind(kind: Sequence[str], root: Path) -> str:
    """Return a kind of problem on one line: the first problem, the number of all, and the files of further ones."""
    first, *others = kind
    if not others:
        return first
    files = dict.fromkeys(match[0] for one in kind[:EXAMPLES] if (match := re.match(_path_pattern(root), one)))
    names = [str(Path(file).relative_to(root)) for file in list(files)[1:]]
    more = len(others) - len(names)
    listed = ", ".join([*names, *([f"{more} more"] if more else [])]) if names else f"{more} more"
    return f"{len(kind)} of a kind: {first} (the others: {listed})"


def _path_pattern(root: Path) -> str:
    """Return the pattern of a file below the root, at the place in a sentence where it is named."""
    name = r"(?:/[^:;]*?(?:\.\w{2,4}(?:\.gz)?(?=[\s,:;]|$)|(?=\s(?:has|have|is|and|cannot|holds|does|lists|names)\b)))?"
    return re.escape(str(root)) + name


def _reduce_to_kind(problem: str, root: Path) -> tuple[str, str]:
    """Return what all problems of a kind share: the four words after the path, and what follows the first colon.

    The former say what is wrong, the latter what to do. Paths, numbers and quoted words are replaced by signs.
    """
    plain = re.sub(_path_pattern(root), "…", problem)
    plain = re.sub(r"'[^']*'|\([^)]*\)|\[[^\]]*\]", "…", plain)
    plain = re.sub(r"\d[\d.]*(?:, (?:\d[\d.]*|…))*", "#", plain)
    wrong, _, to_do = plain.partition(": ")
    return " ".join(wrong.split()[:4]), re.sub(r"\S*[/\\…#]\S*", "…", to_do)
