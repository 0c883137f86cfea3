"""LIDC-IDRI (Armato et al., 2011): CT crops of lung nodules, each outlined by four raters, in two public layouts of slices.

A rater who did not mark the nodule has an empty mask. Masks of equal number are not always of the same rater.
"""

import re
from pathlib import Path

from diffseg.config import Data
from diffseg.data.files import IGNORED_PREFIXES, list_files, normalise_name
from diffseg.data.listing import Listing, find_duplicates
from diffseg.data.records import Record
from diffseg.errors import DataError

RATERS = 4
CROP = re.compile(r"(?P<slice>z-.+_c\d+)_l(?P<rater>\d)")


def find(root: Path, config: Data) -> Listing:
    """List the slices of either layout.

    - `PATIENT/nodule-N/{images,mask-0 … mask-3}/slice-K.png`
    - `images/PATIENT/z-…_c0.png` and `gt/PATIENT/z-…_c0_l0 … l3.png`, at the root or in train/, val/ and test/. These
      folders then give the split; val is trained on.

    Otherwise the split is to be drawn by patients. Raises DataError if the root is in neither layout.
    """
    for below in (root, root / "LIDC-IDRI-slices"):
        if any(below.glob("*/nodule-*/images")):
            return _list_slices(below)
    splits = [path for path in (root / "train", root / "val", root / "test") if (path / "images").is_dir()]
    if splits or (root / "images").is_dir():
        if not splits:
            return _list_crops(root, None)
        return Listing.join(_list_crops(path, "test" if path.name == "test" else "train") for path in splits)
    raise DataError(
        f"{root} is no LIDC-IDRI in slices: expected are PATIENT/nodule-N/images with mask-0 to mask-3, "
        "or images/PATIENT and gt/PATIENT"
    )


def _list_slices(root: Path) -> Listing:
    """List the slices in the folders of nodules."""
    records, problems = [], []
    for folder in sorted(path for path in root.glob("*/nodule-*") if not path.parent.name.startswith(IGNORED_PREFIXES)):
        patient = normalise_name(folder.parent.name)
        masks = [list_files(folder / f"mask-{k}") if (folder / f"mask-{k}").is_dir() else {} for k in range(RATERS)]
        images = list_files(folder / "images") if (folder / "images").is_dir() else {}
        for name in sorted({*images, *(name for found in masks for name in found)}):
            missing = [f"mask-{k}" for k, found in enumerate(masks) if name not in found]
            if name not in images:
                problems.append(f"{folder} has masks of {name} but no image of it: add it, or remove the masks")
            elif missing:
                problems.append(
                    f"{images[name][0]} has no mask in {', '.join(missing)}: every slice has {RATERS} raters"
                )
            else:
                paths = tuple(found[name][0] for found in masks)
                full = f"{patient}/{folder.name}/{name}"
                records.append(Record(full, None, images[name][0], paths, patient))
        problems += find_duplicates(images, *masks)
    return Listing(tuple(records), tuple(problems))


def _list_crops(root: Path, split: str | None) -> Listing:
    """List the slices in the folders images/ and gt/."""
    records, problems = [], []
    for folder in sorted(
        path for path in (root / "images").iterdir() if path.is_dir() and not path.name.startswith(IGNORED_PREFIXES)
    ):
        patient = normalise_name(folder.name)
        truth: dict[str, list[Path]] = {}
        if (root / "gt" / folder.name).is_dir():
            for stem, paths in list_files(root / "gt" / folder.name).items():
                if match := CROP.fullmatch(stem):
                    truth.setdefault(match["slice"], []).append(paths[0])
        for name, paths in list_files(folder).items():
            found = tuple(sorted(truth.get(name, [])))
            if len(found) != RATERS:
                problems.append(
                    f"{paths[0]} has {len(found)} masks in gt/{folder.name}: every slice has {RATERS} raters"
                )
                continue
            records.append(Record(f"{patient}/{name}", split, paths[0], found, patient))
    return Listing(tuple(records), tuple(problems))
