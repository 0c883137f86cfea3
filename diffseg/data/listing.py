"""What a layout finds at a root: the images, and a sentence for every file that cannot be used."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffseg.data.records import Record
from diffseg.errors import DataError


@dataclass(frozen=True)
class Listing:
    """The images of a data set, and one sentence for every file that cannot be used, and for every guess that was made."""

    records: tuple[Record, ...]
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()  # how files were understood, where that could be otherwise

    @classmethod
    def join(cls, parts: Iterable["Listing"]) -> "Listing":
        """Concatenate the records, problems and remarks of all parts."""
        parts = list(parts)
        return cls(
            tuple(record for part in parts for record in part.records),
            tuple(problem for part in parts for problem in part.problems),
            tuple(remark for part in parts for remark in part.remarks),
        )


def pair_by_name(
    split: str,
    images: dict[str, list[Path]],
    annotations: dict[str, list[Path]],
    make: Callable[..., Record] = Record,
) -> Listing:
    """Records of the names in both, problems for images without a mask and for names that several files share."""
    names = sorted(images.keys() & annotations.keys())
    records = tuple(make(name, split, images[name][0], (annotations[name][0],)) for name in names)
    problems = [
        f"{images[name][0]} has no mask: add it, or remove the image"
        for name in sorted(images.keys() - annotations.keys())
    ]
    return Listing(records, (*problems, *find_duplicates(images, annotations)))


def find_duplicates(*folders: dict[str, list[Path]]) -> tuple[str, ...]:
    """A problem for every name that several files of a folder share."""
    return tuple(
        f"{first} and {' and '.join(path.name for path in others)} have one name: leave only one of them"
        for folder in folders
        for first, *others in folder.values()
        if others
    )


def find_conflicts(records: Sequence[Record]) -> tuple[str, ...]:
    """Problems between records: names used twice, groups in both splits, raters that differ in number."""
    problems, names, splits = [], {}, {}
    counts = Counter(record.raters for record in records)
    usual = max(counts, key=lambda raters: (counts[raters], raters), default=0)
    for record in records:
        if (other := names.setdefault((record.split, record.name), record)) is not record:
            problems.append(f"{record.image} and {other.image} are both called {record.name}: rename one of them")
        if record.group is not None and record.split:
            splits.setdefault(record.group, set()).add(record.split)
        if record.raters != usual:
            problems.append(
                f"{record.image} has {record.raters} rater{'s' * (record.raters != 1)}, but {counts[usual]} of {len(records)} "
                f"images have {usual}: add the missing masks, or remove those that are too many"
            )
    if shared := sorted(group for group, found in splits.items() if len(found) > 1):
        named = ", ".join(shared[:3]) + (f" and {len(shared) - 3} more" if shared[3:] else "")
        problems.append(f"patients or groups are in both splits: {named}; leave each in one of them")
    return tuple(problems)


def missing_folder(root: Path, folder: str, expected: str) -> DataError:
    return DataError(f"{root} has no folder {folder}: {expected}")
