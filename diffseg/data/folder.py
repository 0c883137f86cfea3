"""A folder of one's own: images/ and masks/ with equal names, split in two folders train/ and test/ or by name."""

import dataclasses
from pathlib import Path

from diffseg.data.records import Found, drawn_for_testing, files_in, joined, pairs
from diffseg.errors import DataError


def find(root: Path) -> Found:
    """`train/{images,masks}` and `test/{images,masks}`; or `images/` and `masks/`, of which a fifth is drawn for testing.

    The draw is a hash of each name, so adding images moves no other.
    """
    if (root / "train").is_dir():
        parts = [_pairs(root / split, split) for split in ("train", "test")]
        return joined(parts)
    whole = _pairs(root, "train")
    records = tuple(
        dataclasses.replace(record, split="test" if drawn_for_testing(record.name) else "train")
        for record in whole.records
    )
    return Found(records, whole.problems)


def _pairs(folder: Path, split: str) -> Found:
    for kind in ("images", "masks"):
        if not (folder / kind).is_dir():
            raise DataError(
                f"{folder} has no folder {kind}: a data set is images/ and masks/, or these two in train/ and in test/"
            )
    return pairs(split, files_in(folder / "images"), files_in(folder / "masks"))
