"""What a data set on disk holds, and everything that is wrong with it."""

from dataclasses import asdict, dataclass

from diffseg.data.monuseg import polygons
from diffseg.data.records import Found, Record, in_parallel
from diffseg.errors import DataError


@dataclass(frozen=True)
class SplitFindings:
    images: int  # that can be read
    smallest: tuple[int, int] | None  # height and width, px
    largest: tuple[int, int] | None
    foreground: tuple[float, float, float] | None  # least, mean and greatest share of the pixels
    empty_masks: int
    objects: float | None  # mean number an image, where annotations tell


@dataclass(frozen=True)
class Findings:
    name: str
    splits: dict[str, SplitFindings]
    problems: tuple[str, ...]  # one sentence each

    def to_dict(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.name}: {_line(split, part)}" for split, part in self.splits.items()]
        return "\n".join(
            [*lines, *(f"problem: {problem}" for problem in self.problems)]
            if self.problems
            else [*lines, "No problem found."]
        )


def findings(name: str, found: Found) -> Findings:
    """Decode everything at full size and gather what it is."""
    rows = in_parallel(_look, found.records)
    problems = [*found.problems, *(row for row in rows if isinstance(row, str))]
    splits = {}
    for split in ("train", "test"):
        read = [
            row
            for record, row in zip(found.records, rows, strict=True)
            if record.split == split and not isinstance(row, str)
        ]
        splits[split] = _summary(read)
        if not read:
            problems.append(f"{name} has no {split} images that can be read")
    return Findings(name, splits, tuple(problems))


def _look(record: Record) -> tuple[tuple[int, int], float, int | None] | str:
    """(size, foreground share, number of objects) of one image, or what is wrong with it."""
    try:
        _, masks = record.read()
        (first, *_) = record.annotations
        objects = len(polygons(first)) if first.suffix == ".xml" else None
    except DataError as error:
        return str(error)
    return masks.shape[1:], float(masks.mean()), objects


def _summary(rows: list[tuple]) -> SplitFindings:
    if not rows:
        return SplitFindings(0, None, None, None, 0, None)
    sizes, shares, objects = zip(*rows, strict=True)
    return SplitFindings(
        images=len(rows),
        smallest=tuple(map(min, zip(*sizes, strict=True))),
        largest=tuple(map(max, zip(*sizes, strict=True))),
        foreground=(min(shares), sum(shares) / len(shares), max(shares)),
        empty_masks=sum(share == 0 for share in shares),
        objects=None if objects[0] is None else sum(objects) / len(objects),
    )


def _line(split: str, part: SplitFindings) -> str:
    if not part.images:
        return f"{split}: no images"
    low, mean, high = part.foreground
    objects = "" if part.objects is None else f", {part.objects:.0f} objects an image"
    sizes = " × ".join(map(str, part.smallest[::-1]))
    if part.largest != part.smallest:
        sizes += " to " + " × ".join(map(str, part.largest[::-1]))
    return (
        f"{split}: {part.images} images of {sizes} px, foreground {mean:.1%} ({low:.1%} to {high:.1%}), "
        f"{part.empty_masks} empty masks{objects}"
    )
