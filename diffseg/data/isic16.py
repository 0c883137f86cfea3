"""ISIC 2016 (Gutman et al., 2016): dermoscopic images, one lesion each, in two layouts of the challenge."""

import csv
import re
from pathlib import Path

from diffseg.config import Data
from diffseg.data.files import list_files
from diffseg.data.listing import Listing, missing_folder, pair_by_name
from diffseg.data.opening import unreadable
from diffseg.errors import DataError

SPLITS = {"train": "Training", "test": "Test"}
PART1, PART3B = "ISBI2016_ISIC_Part1_{}_{}", "ISBI2016_ISIC_Part3B_{}_{}"
SUFFIX = re.compile("_segmentation$", re.IGNORECASE)
NAME = re.compile(r"(ISIC_\w+?)(?:_[Ss]egmentation)?(?:\.\w+)?")


def find(root: Path, config: Data) -> Listing:
    """Pair ISIC_*.jpg with ISIC_*_Segmentation.png, in the layout of the challenge's Part 1 or Part 3B.

    Part 1 has four folders. Part 3B has images and masks side by side in one folder a split, or in one folder for both;
    its CSV files give the split. Raises DataError if the root is in neither layout.
    """
    if any((root / f"{PART3B.format(split, 'GroundTruth')}.csv").is_file() for split in SPLITS.values()):
        return Listing.join(_list_part3b(root, name, split) for name, split in SPLITS.items())
    parts = []
    for name, split in SPLITS.items():
        folders = [root / PART1.format(split, kind) for kind in ("Data", "GroundTruth")]
        for folder in folders:
            if not folder.is_dir():
                raise missing_folder(
                    root, folder.name, "ISIC16 is expected as unpacked from the challenge's Part 1, or its Part 3B"
                )
        masks = {SUFFIX.sub("", stem): paths for stem, paths in list_files(folders[1]).items()}
        parts.append(pair_by_name(name, list_files(folders[0]), masks))
    return Listing.join(parts)


def _list_part3b(root: Path, name: str, split: str) -> Listing:
    """Pair the images and masks that the CSV file of a split lists. split: the challenge's word for it."""
    table, folder = root / f"{PART3B.format(split, 'GroundTruth')}.csv", root / PART3B.format(split, "Data")
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.reader(lines))
    except FileNotFoundError:
        raise DataError(f"{root} has no {table.name}: Part 3B has a CSV file for each split, which lists it") from None
    except OSError as error:
        raise unreadable(table, error) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} is no CSV file ({error}): copy it anew") from None
    found = list_files(folder if folder.is_dir() else root)
    listed = {match[1] for row in rows for cell in row if (match := NAME.fullmatch(Path(cell.strip()).name))}
    images = {stem: found[stem] for stem in listed & found.keys()}
    masks = {bare: paths for stem, paths in found.items() if (bare := SUFFIX.sub("", stem)) != stem and bare in listed}
    absent = tuple(
        f"{table} lists {stem}, but {folder if folder.is_dir() else root} has no such image: add it, or remove the line"
        for stem in sorted(listed - images.keys() - masks.keys())
    )
    part = pair_by_name(name, images, masks)
    return Listing(part.records, part.problems + absent)
