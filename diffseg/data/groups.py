"""Groups, which are kept in one split: patients by the sub-folders that images lie in, or volumes."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from diffseg.data.listing import Listing
from diffseg.data.records import Record

CLASSES = 10  # fewer sub-folders than these, none with a digit in its name, are classes


def assign_groups(found: Listing) -> Listing:
    """Make sub-folders groups, and slices of volumes those of their volume where there is no sub-folder.

    The outermost level of sub-folders that does not look like classes counts. Remarks say how sub-folders were understood.
    """
    folders = {id(record): _list_folders(record) for record in found.records}
    level, remarks = _find_patient_level(list(folders.values()))
    repeated = _find_repeated_volumes(found.records)
    records = tuple(
        replace(record, group=_choose_group(record, folders[id(record)], level, repeated)) for record in found.records
    )
    return replace(found, records=records, remarks=tuple(dict.fromkeys((*found.remarks, *remarks))))


def _find_patient_level(folders: Sequence[tuple[str, ...]]) -> tuple[int | None, list[str]]:
    """Return the outermost level whose sub-folders are patients, None if there is none, and remarks on the levels.

    folders: of each image, from the outermost on.
    """
    remarks = []
    for level in range(max(map(len, folders), default=0)):
        names = sorted({parts[level] for parts in folders if len(parts) > level})
        if len(names) >= CLASSES or any(re.search(r"\d", name) for name in names):
            remarks.append(
                f"the {len(names)} sub-folders, such as {names[0]}, are taken for patients, each of whom is kept in one "
                "split: if they are not patients, give the column group in split.csv"
            )
            return level, remarks
        remarks.append(
            f"the sub-folders {', '.join(names)} are taken for classes, since they are few and have no numbers: if they "
            "are patients, give the column group in split.csv"
        )
    return None, remarks


def _list_folders(record: Record) -> tuple[str, ...]:
    """Return the sub-folders of the image, from the outermost on."""
    return PurePosixPath(record.name).parts[: -1 if record.index is None else -2]


def _find_repeated_volumes(records: Sequence[Record]) -> set[str]:
    """Return the names of volumes that occur in several splits: 0 in train/ and 0 in test/ are not one patient."""
    splits: dict[str, set[str | None]] = {}
    for record in records:
        if record.index is not None:
            splits.setdefault(record.shared_name, set()).add(record.split)
    return {name for name, found in splits.items() if len(found) > 1}


def _choose_group(record: Record, folders: tuple[str, ...], level: int | None, repeated: set[str]) -> str | None:
    """Return the record's sub-folders down to the level of patients, or its volume, or None."""
    if level is not None and len(folders) > level:
        return "/".join(folders[: level + 1])
    if record.index is None:
        return None
    return f"{record.split}/{record.shared_name}" if record.shared_name in repeated else record.shared_name
