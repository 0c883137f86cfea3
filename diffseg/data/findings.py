"""What `diffseg data check` finds: of one image, of a split, and of a data set; and how it is printed."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from diffseg.data.records import Record

SPLITS = ("train", "test")
EXAMPLES = 3  # sentences of a kind that are printed


@dataclass(frozen=True)
class Row:
    """One image that can be read."""

    record: Record
    size: tuple[int, int]  # height, width, px
    channels: int
    bits: int  # a channel
    raters: int
    foreground: float  # share of the pixels, the mean over raters
    empty: int  # masks without foreground
    objects: int
    pixels: bytes | None  # a hash of them; None if all are equal
    details: np.ndarray  # float32 [D], of length 1 or 0: compared to find images that look alike
    thumbnail: Image.Image | None


@dataclass(frozen=True)
class SplitFindings:
    images: int  # that can be read
    groups: int | None  # patients or volumes, where they are known
    smallest: tuple[int, int] | None  # height and width, px
    largest: tuple[int, int] | None
    channels: tuple[int, ...]  # that occur
    bits: tuple[int, ...]  # a channel
    raters: int | None
    foreground: tuple[float, float, float] | None  # least, mean and greatest share of the pixels
    empty_masks: int  # of all raters' masks
    objects: float | None  # mean number an image

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "SplitFindings":
        if not rows:
            return cls(0, None, None, None, (), (), None, None, 0, None)
        groups = {row.record.group for row in rows} - {None}
        heights, widths = zip(*(row.size for row in rows), strict=True)
        shares = [row.foreground for row in rows]
        return cls(
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

    def __str__(self) -> str:
        if not self.images:
            return "no images"
        low, mean, high = self.foreground
        sizes = " × ".join(map(str, self.smallest[::-1]))
        if self.largest != self.smallest:
            sizes += " to " + " × ".join(map(str, self.largest[::-1]))
        channels, bits = (" or ".join(map(str, x)) for x in (self.channels, self.bits))
        return (
            f"{self.images} images of {sizes} px, {channels} channel{'s' * (channels != '1')} of {bits} bits"
            + (f", of {self.groups} patients or volumes" if self.groups else "")
            + f"; foreground {mean:.1%} ({low:.1%} to {high:.1%}), {self.objects:.1f} objects an image, "
            + f"{self.raters} rater{'s' * (self.raters != 1)}, {self.empty_masks} empty mask{'s' * (self.empty_masks != 1)}"
        )


@dataclass(frozen=True)
class Findings:
    name: str
    root: Path
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
        lines = [f"{self.name}: {split}: {part}" for split, part in self.splits.items()]
        lines += [f"suspicious: {suspicion}" for suspicion in self.suspicions]
        for alike in by_kind(self.problems, self.root):
            lines += [f"problem: {problem}" for problem in alike[:EXAMPLES]]
            if more := len(alike) - EXAMPLES:
                lines += [f"problem: the same of {more} more ({len(alike)} in all)"] * (more > 0)
        return "\n".join(lines if self.problems else [*lines, "No problem found."])


def by_kind(problems: Sequence[str], root: Path) -> list[list[str]]:
    """The sentences that differ only in the file, in numbers or in quoted words, together; in order of their first."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        kinds.setdefault(_kind(problem, root), []).append(problem)
    return list(kinds.values())


def _kind(problem: str, root: Path) -> tuple[str, str]:
    """The first words after the path, which say what is wrong, and what follows the first colon, which says what to do."""
    name = r"(?:/[^:;]*?(?:\.\w{2,4}(?:\.gz)?(?=[\s,:;]|$)|(?=\s(?:has|have|is|and|cannot|holds|does|lists|names)\b)))?"
    plain = re.sub(re.escape(str(root)) + name, "…", problem)
    plain = re.sub(r"'[^']*'|\([^)]*\)|\[[^\]]*\]", "…", plain)
    plain = re.sub(r"\d[\d.]*(?:, (?:\d[\d.]*|…))*", "#", plain)
    wrong, _, to_do = plain.partition(": ")
    return " ".join(wrong.split()[:4]), re.sub(r"\S*[/\\…#]\S*", "…", to_do)
