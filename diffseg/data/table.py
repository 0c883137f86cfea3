"""`split.csv`: which images are trained and tested on, and which patient each is of."""

import csv
from collections import Counter
from pathlib import Path

from diffseg.data.files import composed, stem
from diffseg.data.opening import unreadable
from diffseg.errors import DataError

TABLE = "split.csv"
SPLITS = {
    **dict.fromkeys(("train", "training", "val", "valid", "validation"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
}

Rows = dict[Path, dict[str, str]]  # by image: its split and group, "" where the table leaves them open


def read_table(table: Path, images: dict[Path, str]) -> tuple[Rows, tuple[str, ...], tuple[str, ...]]:
    """The rows of the images, what is wrong with the table, and what is odd about it. Raises DataError if it is no table.

    images: name by file. A row names an image with or without its extension, and with or without its sub-folder.
    """
    lines, known = _lines(table), _aliases(images)
    found: Rows = {}
    problems, strangers = [], []
    for number, row in enumerate(lines, 2):
        name, split = composed(row["name"] or ""), (row.get("split") or "").strip().lower()
        if split and split not in SPLITS:
            problems.append(f"{table}, line {number} has the split '{split}': allowed are train, val and test")
        image = known.get(name) or known.get(composed(Path(name).name)) or known.get(stem(Path(name).name))
        if image is None:
            strangers.append(name)
        elif image in found:
            problems.append(f"{table}, line {number} names {images[image]} once more: leave one line for it")
        else:
            found[image] = {"split": SPLITS.get(split, ""), "group": composed(row.get("group") or "")}
    problems += [
        f"{table} does not list {name}: add a line for it, or remove the image"
        for image, name in images.items()
        if image not in found
    ]
    remarks = [f"{len(strangers)} lines of {table} name no image, such as {strangers[0]}"] if strangers else []
    return found, tuple(problems), tuple(remarks)


def _lines(table: Path) -> list[dict[str, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            rows, columns = list(reader), set(reader.fieldnames or ())
    except OSError as error:
        raise unreadable(table, error) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} is no CSV file ({error}): save it as CSV in UTF-8") from None
    if "name" not in columns or not columns & {"split", "group"}:
        raise DataError(f"{table} has the columns {', '.join(sorted(columns))}: expected are name, split and group")
    return rows


def _aliases(images: dict[Path, str]) -> dict[str, Path]:
    """Every image by the names that mean no other one; its full name counts before the others."""
    given = [
        (alias, image)
        for image, name in images.items()
        for alias in {name, Path(name).name, composed(image.name), f"{Path(name).parent}/{composed(image.name)}"}
    ]
    counts = Counter(alias for alias, _ in given)
    return {alias: image for alias, image in given if counts[alias] == 1} | {
        name: image for image, name in images.items()
    }
