"""The table `split.csv`: which images are trained and tested on, and which patient each belongs to."""

import csv
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from diffseg.data.files import normalise_name, stem
from diffseg.data.listing import Listing
from diffseg.data.opening import unreadable
from diffseg.errors import DataError

TABLE = "split.csv"
SPLITS = {
    **dict.fromkeys(("train", "training", "val", "valid", "validation"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class SplitTable:
    """The content of `split.csv`."""

    rows: dict[Path, tuple[str, str]]  # by image: its split (train or test) and its group; "" where these are left open
    problems: tuple[str, ...]
    remarks: tuple[str, ...]


def apply_table(root: Path, found: Listing, split_by_folders: bool) -> Listing:
    """Set the groups of the root's split.csv, and its splits where folders do not give these. Without it, change nothing."""
    if not (root / TABLE).is_file():
        return found
    table = read_table(root / TABLE, {record.image: record.shared_name for record in found.records})
    records, problems = [], list(table.problems)
    for record in found.records:
        listed, group = table.rows.get(record.image, ("", ""))
        if split_by_folders and listed not in ("", record.split):
            problems.append(
                f"{root / TABLE} puts {record.name} into {listed}, but its folder is {record.split}: correct the line"
            )
        split = record.split if split_by_folders else listed or None
        records.append(replace(record, split=split, group=group or record.group))
    return Listing(tuple(records), (*found.problems, *problems), found.remarks + table.remarks)


def read_table(table: Path, images: dict[Path, str]) -> SplitTable:
    """Read the rows of the images. Raises DataError if the file is no such table.

    Args:
        table: A row names an image with or without its extension, and with or without its sub-folder.
        images: Their names by their files.
    """
    aliases = _list_aliases(images)
    rows: dict[Path, tuple[str, str]] = {}
    problems, strangers = [], []
    for number, row in enumerate(_read_rows(table), 2):
        name, split = normalise_name(row["name"] or ""), (row.get("split") or "").strip().lower()
        if split and split not in SPLITS:
            problems.append(f"{table}, line {number} has the split '{split}': allowed are train, val and test")
        base = Path(name).name
        image = aliases.get(name) or aliases.get(normalise_name(base)) or aliases.get(stem(base))
        if image is None:
            strangers.append(name)
        elif image in rows:
            problems.append(f"{table}, line {number} names {images[image]} again: leave one line for it")
        else:
            rows[image] = SPLITS.get(split, ""), normalise_name(row.get("group") or "")
    problems += [
        f"{table} does not list {name}: add a line for it, or remove the image"
        for image, name in images.items()
        if image not in rows
    ]
    remarks = []
    if strangers:
        count = f"{len(strangers)} name{'s' * (len(strangers) != 1)}"
        remarks.append(f"{table} lists {count} that no image has, such as {strangers[0]}: correct or remove the lines")
    return SplitTable(rows, tuple(problems), tuple(remarks))


def _read_rows(table: Path) -> list[dict[str, str]]:
    """Return the lines below the header, by column. Raises DataError."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            rows, columns = list(reader), set(reader.fieldnames or ())
    except OSError as error:
        raise unreadable(table, error) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} is no CSV file ({error}): save it as CSV in UTF-8") from None
    if "name" not in columns or not columns & {"split", "group"}:
        raise DataError(
            f"{table} has the columns {', '.join(sorted(columns))}: expected are name, and split or group or both"
        )
    return rows


def _list_aliases(images: dict[Path, str]) -> dict[str, Path]:
    """Return every image by its name, and by each shorter or longer form that means no other image."""
    given = [
        (alias, image)
        for image, name in images.items()
        for alias in {
            name,
            Path(name).name,
            normalise_name(image.name),
            f"{Path(name).parent}/{normalise_name(image.name)}",
        }
    ]
    counts = Counter(alias for alias, _ in given)
    unique = {alias: image for alias, image in given if counts[alias] == 1}
    return unique | {name: image for image, name in images.items()}
