"""Find the image and mask files of each split in a folder of one's own."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffseg.config import Data
from diffseg.data.dataset_json import FILE
from diffseg.data.files import DEPTH, IGNORED_PREFIXES, IMAGES, MASKS, PICTURES, VOLUMES, list_files, normalise_name
from diffseg.data.layout_detection import describe_contents, other_layout_error
from diffseg.data.listing import Files, missing_folder
from diffseg.data.pairing import pair_masks, split_by_affix
from diffseg.data.split_table import SPLITS
from diffseg.errors import DataError

EXPECTED = (
    "a data set is images/ and masks/ (or masks_0/, masks_1/, … of several raters), or these in train/ and in test/, or in a "
    "folder for each patient"
)
RATER = re.compile(r"masks_.+")


@dataclass(frozen=True)
class SplitFiles:
    """The files of a split, or of a data set whose splits are still to be drawn."""

    split: str | None
    folder: Path  # of the images
    images: Files
    masks: tuple[Files, ...]  # of each rater
    remarks: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()  # a sentence for every sub-folder that cannot be used
    nested: bool = False  # whether each image has a folder of its own, with masks of any names


def find_split_folders(root: Path) -> list[tuple[str | None, Path]]:
    """Return the splits and their folders, those of training first; the root, of no split, if there are none.

    The folders lie at the root or below images/. Raises DataError if there are some to train on but none to test on.
    """
    inside = _list_folders(root)
    images = _choose_folder(inside, IMAGES, root)
    for level in (inside, _list_folders(images) if images else {}):
        folders = [(SPLITS[name], path) for name, path in level.items() if name in SPLITS]
        if "train" in dict(folders):
            if "test" not in dict(folders):
                raise missing_folder(folders[0][1].parent, "test", EXPECTED)
            return sorted(folders, key=lambda one: one[0] == "test")
    return [(None, root)]


def find_split_files(root: Path, folder: Path, split: str | None, config: Data) -> SplitFiles:
    """Return the images and masks below the folder of a split, or below the root. Raises DataError if there are none."""
    inside = _list_folders(folder)
    images, own = _choose_folder(inside, IMAGES, folder), _find_mask_folders(inside, folder)
    if not images and not own and (found := _find_image_folders(split, folder)):
        return found
    masks, shared = (own, []) if own or folder == root else _find_shared_masks(root, folder)
    if images is None and (folder != root or masks):
        images = folder
    if images is None and (other := other_layout_error(root, config, "folder")):
        raise other
    place = images or folder
    files = (_list_data(place, masks), *map(_list_data, masks)) if masks else split_by_affix(_list_data(place))
    _check_files(folder, images, [place, *masks], files)
    remarks = [*shared, *_remark_on_names(folder, images, own)]
    if not masks:
        remarks.append(f"images and masks are taken from one folder, {place}")
    return SplitFiles(split, place, files[0], tuple(files[1:]), tuple(remarks))


def _check_files(folder: Path, images: Path | None, places: Sequence[Path], files: Sequence[Files]) -> None:
    """Raise DataError if there is no image, or no mask, or nothing in one of the places."""
    for path, found in zip(places, files, strict=False):
        if path != folder and not found:
            raise DataError(f"{path} holds no picture or volume ({', '.join(PICTURES + VOLUMES)}): put the files there")
    if not all(files):
        missing = "masks" if images not in (None, folder) else "images"
        raise missing_folder(folder, missing, f"{EXPECTED}; it holds {describe_contents(folder)}")


def _remark_on_names(folder: Path, images: Path | None, masks: Sequence[Path]) -> list[str]:
    """Return a remark for every folder whose name is not images, masks, or masks_ of a rater."""
    named = [("images", images), *(("masks", path) for path in masks)]
    return [
        f"{what} are taken from {path}"
        for what, path in named
        if path and path != folder and path.name.lower() != what and not RATER.fullmatch(path.name)
    ]


def _find_shared_masks(root: Path, folder: Path) -> tuple[list[Path], list[str]]:
    """Return the folders of a split's masks below the root's folders of masks; or these folders, with a remark."""
    masks = _find_mask_folders(_list_folders(root), root)
    own = [path for place in masks if (path := _list_folders(place).get(normalise_name(folder.name).lower()))]
    remarks = [f"masks of all splits are taken from {', '.join(map(str, masks))}"] if masks and not own else []
    return own or masks, remarks


def _find_image_folders(split: str | None, folder: Path) -> SplitFiles | None:
    """Return the files of sub-folders, of a patient or of an image each, that have images/ and masks/ of their own.

    None if fewer than two sub-folders have them. Where a sub-folder holds a single image, its masks may have any names.
    """
    inside = {path: _list_folders(path) for path in _list_folders(folder).values() if not (path / FILE).is_file()}
    images = {path: place for path, own in inside.items() if (place := _choose_folder(own, IMAGES, path))}
    masks = {path: places for path, own in inside.items() if (places := _find_mask_folders(own, path))}
    whole = [path for path in inside if path in images and path in masks]
    if len(whole) < 2:
        return None
    usual, problems = _find_unusual_folders(images, masks, whole)
    found: Files = {}
    raters: list[Files] = [{} for _ in masks[usual[0]]]
    nested = False
    for path in usual:
        name, own = normalise_name(path.name), _list_data(images[path])
        found |= {f"{name}/{key}": paths for key, paths in own.items()}
        for rater, place in zip(raters, masks[path], strict=True):
            truth = _list_data(place)
            if len(own) == 1 and not pair_masks(own, truth).masks:
                nested = True
                truth = {f"{key}_{number}": paths for key in own for number, paths in enumerate(truth.values())}
            rater |= {f"{name}/{key}": paths for key, paths in truth.items()}
    if not found or not any(raters):
        return None
    remark = f"the sub-folders of {folder} hold images and masks each"
    return SplitFiles(split, folder, found, tuple(raters), (remark,), tuple(problems), nested)


def _find_unusual_folders(
    images: dict[Path, Path], masks: dict[Path, list[Path]], whole: Sequence[Path]
) -> tuple[list[Path], list[str]]:
    """Return the sub-folders that have images/ and the same folders of masks as most, and the problems of all others.

    Args:
        images: The folder of images of each sub-folder that has one.
        masks: The folders of masks, of a rater each, of each sub-folder that has some.
        whole: The sub-folders that have both.
    """
    named = {path: _name_raters(masks[path]) for path in whole}
    counts = Counter(named.values())
    most = max(counts, key=lambda names: (counts[names], len(names)))
    problems = []
    for path in sorted({*images, *masks}):
        if path not in named:
            missing = "masks" if path in images else "images"
            problems.append(
                f"{path} has no folder {missing}, as {len(whole)} other sub-folders have: add it, or remove the sub-folder"
            )
        elif named[path] != most:
            problems.append(
                f"{path} has {' and '.join(named[path])}, but {counts[most]} of {len(whole)} sub-folders have "
                f"{' and '.join(most)}: give all of them the same folders of masks"
            )
    return [path for path in whole if named[path] == most], problems


def _name_raters(places: Sequence[Path]) -> tuple[str, ...]:
    """Return the names of several folders of raters; of a single folder of masks masks/, whatever its name is."""
    return tuple(f"{normalise_name(path.name).lower()}/" for path in places) if places[1:] else ("masks/",)


def _list_data(folder: Path, without: Sequence[Path] = ()) -> Files:
    """Return the pictures and volumes of a folder and its sub-folders, without those in some of these."""
    found = list_files(folder, PICTURES + VOLUMES, DEPTH)
    left_out = tuple(f"{normalise_name(path.name)}/" for path in without if path.parent == folder)
    return {key: paths for key, paths in found.items() if not key.startswith(left_out)}


def _list_folders(folder: Path) -> dict[str, Path]:
    """Return the folders in a folder, by name in lower case."""
    found = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(IGNORED_PREFIXES))
    return {normalise_name(path.name).lower(): path for path in found}


def _choose_folder(inside: dict[str, Path], names: tuple[str, ...], folder: Path) -> Path | None:
    """Return the folder of one of the names, None if there is none. The first name comes before all others.

    Raises DataError if there are several of the others.
    """
    found = [inside[name] for name in names if name in inside]
    if found[1:] and normalise_name(found[0].name).lower() != names[0]:
        raise DataError(
            f"{folder} has the folders {' and '.join(path.name for path in found)}: rename the one to read to {names[0]}"
        )
    return found[0] if found else None


def _find_mask_folders(inside: dict[str, Path], folder: Path) -> list[Path]:
    """Return the folders masks_0/, masks_1/, … of raters, or the one folder of masks, or none."""
    raters = [name for name in inside if RATER.fullmatch(name)]
    if raters:
        return [inside[name] for name in sorted(raters, key=lambda name: (len(name), name))]
    return [found] if (found := _choose_folder(inside, MASKS, folder)) else []
