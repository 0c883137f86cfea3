"""Where the images and masks of each split lie in a folder of one's own."""

import re
from dataclasses import dataclass
from pathlib import Path

from diffseg.config import Data
from diffseg.data.files import PASSED_OVER, PICTURES, VOLUMES, composed, files_in
from diffseg.data.listing import missing_folder
from diffseg.data.pairing import Files, pair, split_by_affix
from diffseg.data.recognise import contents, elsewhere
from diffseg.data.table import SPLITS
from diffseg.errors import DataError

EXPECTED = (
    "a data set is images/ and masks/ (or masks_0/, masks_1/, … of several raters), or these in train/ and in test/"
)
IMAGES = ("images", "image", "imgs", "img", "imagestr")
MASKS = (
    "masks", "mask", "labels", "label", "annotations", "annotation", "gt", "groundtruth", "ground_truth", "ground truth",
    "segmentations", "segmentation", "labelstr",
)  # fmt: skip
RATER = re.compile(r"masks_.+")
DEPTH = 4  # levels of sub-folders below images/ and masks/


@dataclass(frozen=True)
class Place:
    """The files of a split, or of a data set that is to be divided."""

    split: str | None
    folder: Path  # of the images
    images: Files
    masks: tuple[Files, ...]  # one, or one a rater
    remarks: tuple[str, ...] = ()

    @classmethod
    def of(cls, root: Path, folder: Path, split: str | None, config: Data) -> "Place":
        """The images and masks below the folder of a split, or the root. Raises DataError if there are none."""
        inside = _folders(folder)
        images, masks = _one_of(inside, IMAGES, folder), _mask_folders(inside, folder)
        if not images and not masks and (found := _patients(split, folder)):
            return found
        own, remarks = masks, []
        if not masks and folder != root:
            masks, remarks = _shared_masks(root, folder)
        images = images or (folder if folder != root or masks else None)
        if images is None and (other := elsewhere(root, config.name, "folder")):
            raise other
        for what, path in (("images", images), *(("masks", path) for path in own)):
            if path and path != folder and path.name.lower() != what and not RATER.fullmatch(path.name):
                remarks.append(f"{what} are taken from {path}")
        found = _side_by_side(images or folder) if not masks else (_files(images, masks), *map(_files, masks))
        for path, files in zip([images or folder, *masks], found, strict=False):
            if path != folder and not files:
                raise DataError(
                    f"{path} holds no picture or volume ({', '.join(PICTURES + VOLUMES)}): put the files there"
                )
        if not all(found) or len(found) < 2:
            missing = "masks" if images not in (None, folder) else "images"
            raise missing_folder(folder, missing, f"{EXPECTED}; it holds {contents(folder)}")
        if not masks:
            remarks.append(f"images and masks are taken from one folder, {images or folder}")
        return cls(split, images or folder, found[0], tuple(found[1:]), tuple(remarks))


def splits(root: Path) -> list[tuple[str | None, Path]]:
    """The splits and their folders, at the root or below images/. Raises DataError if there is none to test on."""
    inside = _folders(root)
    images = _one_of(inside, IMAGES, root)
    for level in (inside, _folders(images) if images else {}):
        folders = [(SPLITS[name], path) for name, path in level.items() if name in SPLITS]
        if "train" in dict(folders):
            if "test" not in dict(folders):
                raise missing_folder(folders[0][1].parent, "test", EXPECTED)
            return sorted(folders, key=lambda one: one[0] == "test")
    return [(None, root)]


def _shared_masks(root: Path, folder: Path) -> tuple[list[Path], list[str]]:
    """The masks of a split below the root's folders of masks, or these, with a remark."""
    masks = _mask_folders(_folders(root), root)
    own = [path for place in masks if (path := _folders(place).get(composed(folder.name).lower()))]
    remarks = [f"masks of all splits are taken from {', '.join(map(str, masks))}"] if masks and not own else []
    return own or masks, remarks


def _patients(split: str | None, folder: Path) -> Place | None:
    """The images and masks of several sub-folders that hold both, each with its own images/ and masks/.

    Where a sub-folder holds a single image, its masks may have any names.
    """
    images, masks = {}, {}
    for path in _folders(folder).values():
        name, inside = composed(path.name), _folders(path)
        place, truths = _one_of(inside, IMAGES, path), _mask_folders(inside, path)
        if place is None or len(truths) != 1:
            continue
        own, truth = _files(place), _files(truths[0])
        if len(own) == 1 and not pair(own, truth).masks:
            truth = {f"{key}_{number}": paths for key in own for number, paths in enumerate(truth.values())}
        images |= {f"{name}/{key}": paths for key, paths in own.items()}
        masks |= {f"{name}/{key}": paths for key, paths in truth.items()}
    if len({key.split("/")[0] for key in images}) < 2 or not masks:
        return None
    return Place(split, folder, images, (masks,), (f"the sub-folders of {folder} hold images and masks each",))


def _side_by_side(folder: Path) -> tuple[Files, ...]:
    images, masks = split_by_affix(_files(folder))
    return images, masks


def _files(folder: Path, without: list[Path] = ()) -> Files:
    """The pictures and volumes of a folder and its sub-folders, but for those in some of them."""
    found = files_in(folder, PICTURES + VOLUMES, DEPTH)
    left_out = tuple(f"{composed(path.name)}/" for path in without if path.parent == folder)
    return {key: paths for key, paths in found.items() if not key.startswith(left_out)}


def _folders(folder: Path) -> dict[str, Path]:
    """The folders in it by name in lower case."""
    found = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(PASSED_OVER))
    return {composed(path.name).lower(): path for path in found}


def _one_of(inside: dict[str, Path], names: tuple[str, ...], folder: Path) -> Path | None:
    """The folder of one of the names, the first name before all others. Raises DataError for two of the others."""
    found = [inside[name] for name in names if name in inside]
    if found[1:] and composed(found[0].name).lower() != names[0]:
        raise DataError(
            f"{folder} has the folders {' and '.join(path.name for path in found)}: rename one to {names[0]}"
        )
    return found[0] if found else None


def _mask_folders(inside: dict[str, Path], folder: Path) -> list[Path]:
    """masks_0/, masks_1/, … of raters, or the one folder of masks."""
    raters = [name for name in inside if RATER.fullmatch(name)]
    if raters:
        return [inside[name] for name in sorted(raters, key=lambda name: (len(name), name))]
    return [found] if (found := _one_of(inside, MASKS, folder)) else []
