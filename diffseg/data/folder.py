"""A folder of one's own: images/ and masks/ of equal names, pictures or NIfTI volumes, of one or several raters."""

import csv
import dataclasses
import re
from pathlib import Path

from diffseg.config import Data
from diffseg.data import volumes
from diffseg.data.files import PICTURES, VOLUMES, files_in, is_volume, stem
from diffseg.data.opening import unreadable
from diffseg.data.records import Found, Record, joined, no_folder, shared_names
from diffseg.errors import DataError

EXPECTED = (
    "a data set is images/ and masks/ (or masks_0/, masks_1/, … of several raters), or these in train/ and in test/"
)
RATER = re.compile(r"(?P<name>.+)_(?P<rater>\d)")
SPLITS = {"train": "train", "training": "train", "val": "train", "validation": "train", "test": "test"}
TABLE = "split.csv"


def find(root: Path, config: Data) -> Found:
    """`train/` and `test/` (and `val/`, which is trained on), each with `images/` and `masks/`; or these two at the root.

    Then `split.csv`, with the columns name, split (train, val or test) and group, the last two optional, tells the split;
    what it leaves open is to be drawn. Masks have the names of their images,
    or those with _0, _1, … appended for several raters, who may have folders masks_0/, masks_1/, … instead.
    Every slice of a NIfTI volume is an image; a volume is a group.
    """
    if (root / "train").is_dir():
        folders = {split: root / split for split in ("train", "val", "test") if (root / split).is_dir()}
        if "test" not in folders:
            raise no_folder(root, "test", EXPECTED)
        return joined(_pairs(folder, SPLITS[split], config) for split, folder in folders.items())
    found = _pairs(root, None, config)
    rows, problems = _listed(root / TABLE) if (root / TABLE).is_file() else ({}, ())
    listed = [(record, rows.get(stem(record.image.name), {})) for record in found.records]
    units = [row.get("group") or stem(record.image.name) for record, row in listed]
    records = tuple(
        dataclasses.replace(
            record,
            split=row.get("split") or None,
            group=unit if row.get("group") or record.index is not None else None,
        )
        for (record, row), unit in zip(listed, units, strict=True)
    )
    absent = dict.fromkeys(stem(record.image.name) for record, row in listed if rows and not row)
    problems += tuple(f"{root / TABLE} does not list {name}: add a line for it, or remove the image" for name in absent)
    return Found(records, found.problems + problems)


def _listed(table: Path) -> tuple[dict[str, dict[str, str]], tuple[str, ...]]:
    """The rows of a split.csv by name, and what is wrong with them."""
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
    found, problems = {}, []
    for number, row in enumerate(rows, 2):
        name, split = stem(Path(row["name"] or "").name), (row.get("split") or "").strip().lower()
        if split and split not in SPLITS:
            problems.append(f"{table}, line {number} has the split '{split}': allowed are train, val and test")
        if name in found:
            problems.append(f"{table}, line {number} names {name} once more: leave one line for it")
        found[name] = {"split": SPLITS.get(split, ""), "group": (row.get("group") or "").strip()}
    return found, tuple(problems)


def _pairs(folder: Path, split: str | None, config: Data) -> Found:
    if not (folder / "images").is_dir():
        raise no_folder(folder, "images", EXPECTED)
    raters = sorted(path for path in folder.glob("masks_*") if path.is_dir())
    if not raters and not (folder / "masks").is_dir():
        raise no_folder(folder, "masks", EXPECTED)
    images = files_in(folder / "images", PICTURES + VOLUMES)
    places = [files_in(path, PICTURES + VOLUMES) for path in raters or [folder / "masks"]]
    numbered = {} if raters else _numbered(images, places[0])
    records, problems, used = [], list(shared_names(images, *places)), set()
    for name, (image, *_) in images.items():
        masks = [place[name][0] for place in places if name in place] or numbered.get(name, [])
        used.update(masks)
        if not masks:
            problems.append(f"{image} has no mask: add it, or remove the image")
        elif raters and len(masks) != len(raters):
            problems.append(f"{image} has masks in {len(masks)} of {len(raters)} folders of raters: add the others")
        else:
            records.append(Record(name, split, image, tuple(masks), foreground=config.foreground))
    problems += [
        f"{path} has no image: add it, or remove the mask"
        for place in places
        for paths in place.values()
        for path in paths[:1]
        if path not in used
    ]
    parts = [_slices(record, config.axis) if is_volume(record.image) else Found((record,)) for record in records]
    return joined([*parts, Found((), tuple(problems))])


def _numbered(images: dict, masks: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """The masks NAME_0, NAME_1, … by NAME, except those of images that are called so."""
    found: dict[str, list[Path]] = {}
    for key in sorted(masks.keys() - images.keys()):
        if match := RATER.fullmatch(key):
            found.setdefault(match["name"], []).append(masks[key][0])
    return found


def _slices(record: Record, axis: int | None) -> Found:
    """The slices of a volume as images, or why it has none."""
    try:
        header = volumes.header(record.image)
        for path in record.annotations:
            if not is_volume(path):
                raise DataError(f"{path} is a picture, but {record.image} is a volume: give its mask as NIfTI, too")
            volumes.orientation(volumes.header(path), header)
    except DataError as error:
        return Found((), (str(error),))
    axis = header.slice_axis(axis)
    return Found(
        tuple(
            dataclasses.replace(record, name=f"{record.name}/{index:03d}", index=index, axis=axis)
            for index in range(header.grid[axis])
        )
    )
