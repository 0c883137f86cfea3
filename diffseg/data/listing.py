"""What a layout finds at a root: the images, and a sentence for every file that cannot be used."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffseg.data.records import Record
from diffseg.errors import DataError

Files = dict[str, list[Path]]  # by stem; it should be one a stem


@dataclass(frozen=True)
class Listing:
    """The images of a data set, what is wrong with its files, and how they were understood."""

    records: tuple[Record, ...]
    problems: tuple[str, ...] = ()  # a sentence for every file that cannot be used
    remarks: tuple[str, ...] = ()  # a sentence for every guess that could be wrong

    @classmethod
    def join(cls, parts: Iterable["Listing"]) -> "Listing":
        """Concatenate the records, problems and remarks of all parts."""
        parts = list(parts)
        return cls(
            tuple(record for part in parts for record in part.records),
            tuple(problem for part in parts for problem in part.problems),
            tuple(remark for part in parts for remark in part.remarks),
        )


def pair_by_name(split: str, images: Files, annotations: Files, make: Callable[..., Record] = Record) -> Listing:
    """Make a record of every name that has an image and an annotation.

    Images without an annotation, and names that several files share, are problems. make: the class of the records.
    """
    names = sorted(images.keys() & annotations.keys())
    records = tuple(make(name, split, images[name][0], (annotations[name][0],)) for name in names)
    problems = [
        f"{images[name][0]} has no mask: add it, or remove the image"
        for name in sorted(images.keys() - annotations.keys())
    ]
    return Listing(records, (*problems, *find_duplicates(images, annotations)))


def find_duplicates(*folders: Files) -> tuple[str, ...]:
    """Return a problem for every name that several files of one folder share."""
    return tuple(
        f"{first} and {' and '.join(path.name for path in others)} have one name: leave only one of them"
        for folder in folders
        for first, *others in folder.values()
        if others
    )


def find_conflicts(records: Sequence[Record]) -> tuple[str, ...]:
    """Return the problems between records: shared names, unequal numbers of raters, groups in both splits."""
    return (*_find_shared_names(records), *_find_missing_raters(records), *_find_divided_groups(records))


def missing_folder(root: Path, folder: str, expected: str) -> DataError:
    """Return the error for a folder that the layout expects at the root."""
    return DataError(f"{root} has no folder {folder}: {expected}")


def _find_shared_names(records: Sequence[Record]) -> list[str]:
    """Return a problem for every image whose name another one of its split has."""
    problems: list[str] = []
    names: dict[tuple[str | None, str], Record] = {}
    for record in records:
        if (other := names.setdefault((record.split, record.name), record)) is not record:
            problems.append(f"{record.image} and {other.image} are both called {record.name}: rename one of them")
    return problems


def _find_missing_raters(records: Sequence[Record]) -> list[str]:
    """Return a problem for every image whose number of raters is not the most frequent one."""
    counts = Counter(record.raters for record in records)
    usual = max(counts, key=lambda raters: (counts[raters], raters), default=0)
    return [
        f"{record.image} has {record.raters} rater{'s' * (record.raters != 1)}, but {counts[usual]} of {len(records)} "
        f"images have {usual}: add the missing masks, or remove those that are too many"
        for record in records
        if record.raters != usual
    ]


def _find_divided_groups(records: Sequence[Record]) -> list[str]:
    """Return one problem if patients, volumes or other groups have images in both splits."""
    splits: dict[str, set[str]] = {}
    for record in records:
        if record.group is not None and record.split:
            splits.setdefault(record.group, set()).add(record.split)
    shared = sorted(group for group, found in splits.items() if len(found) > 1)
    if not shared:
        return []
    named = ", ".join(shared[:3]) + (f" and {len(shared) - 3} more" if shared[3:] else "")
    return [f"patients or groups are in both splits: {named}; leave each in one of them"]
