"""Patients by the sub-folders that images lie in."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from diffseg.data.listing import Listing
from diffseg.data.records import Record

CLASSES = 10  # fewer sub-folders than these, none with a number in its name, are classes


def patients(found: Listing) -> Listing:
    """Make the sub-folders of images groups, and slices of volumes those of their volume where there is no sub-folder.

    The outermost level that does not look like classes counts. What was taken for what is remarked on.
    """
    folders = {id(record): _folders(record) for record in found.records}
    depth = max(map(len, folders.values()), default=0)
    remarks = []
    for level in range(depth):
        names = sorted({parts[level] for parts in folders.values() if len(parts) > level})
        if len(names) < CLASSES and not any(re.search(r"\d", name) for name in names):
            remarks.append(
                f"the sub-folders {', '.join(names)} are taken for classes, since they are few and have no numbers: if they "
                "are patients, give the column group in split.csv"
            )
            continue
        remarks.append(
            f"the {len(names)} sub-folders, such as {names[0]}, are taken for patients, who are kept together: if they are "
            "not, give the column group in split.csv"
        )
        break
    else:
        level = None
    repeated = _in_several_splits(found.records)
    records = tuple(
        dataclasses.replace(record, group=_group(record, folders[id(record)], level, repeated))
        for record in found.records
    )
    return dataclasses.replace(found, records=records, remarks=tuple(dict.fromkeys((*found.remarks, *remarks))))


def _folders(record: Record) -> tuple[str, ...]:
    """The sub-folders of the image, from the outermost on."""
    return PurePosixPath(record.name).parts[: -1 if record.index is None else -2]


def _in_several_splits(records: Sequence[Record]) -> set[str]:
    """The volumes' names that several splits have, such as 0 in train/ and 0 in test/: they number volumes, not patients."""
    splits: dict[str, set[str | None]] = {}
    for record in records:
        if record.index is not None:
            splits.setdefault(record.shared_name, set()).add(record.split)
    return {name for name, found in splits.items() if len(found) > 1}


def _group(record: Record, folders: tuple[str, ...], level: int | None, repeated: set[str]) -> str | None:
    if level is not None and len(folders) > level:
        return "/".join(folders[: level + 1])
    if record.index is None:
        return None
    return f"{record.split}/{record.shared_name}" if record.shared_name in repeated else record.shared_name
