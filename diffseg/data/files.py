"""Find the image and mask files in a folder, pictures and volumes, by names that are the same on every system."""

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from diffseg.errors import DataError
from diffseg.suggestions import did_you_mean_path

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
VOLUMES = (".nii", ".nii.gz")
EXTENSION = re.compile(r"\.(png|jpe?g|tiff?|bmp|nii|nii\.gz|xml)$", re.IGNORECASE)
IMAGES = ("images", "image", "imgs", "img", "imagestr")
MASKS = (
    "masks", "mask", "labels", "label", "annotations", "annotation", "gt", "groundtruth", "ground_truth", "ground truth",
    "segmentations", "segmentation", "labelstr",
)  # fmt: skip
RATERS = re.compile(r"masks?[_-].+")  # names of folders of masks, of a rater each
DEPTH = 4  # levels of sub-folders that are read
IGNORED_PREFIXES = (".", "__MACOSX")  # of hidden files, and of what archives leave


def normalise_name(name: str) -> str:
    """Return a name in Unicode's composed form (NFC), without blanks at its ends.

    macOS writes é as two characters (NFD), other systems write it as one (NFC).
    """
    return unicodedata.normalize("NFC", name).strip()


def stem(name: str) -> str:
    """Return a file's normalised name without its extension."""
    return EXTENSION.sub("", normalise_name(name)).strip()


def is_volume(path: Path) -> bool:
    """Return whether the name is that of a NIfTI volume."""
    return path.name.lower().endswith(VOLUMES)


def list_files(folder: Path, extensions: tuple[str, ...] = PICTURES, depth: int = 0) -> dict[str, list[Path]]:
    """Return the files of a folder by their stems. Several files of one stem are an error that the caller reports.

    Args:
        folder: Read without its hidden files.
        extensions: In lower case, with the dot.
        depth: Levels of sub-folders that are read as well. The key of a file in one is "FOLDER/STEM".

    Raises:
        DataError: A name is not UTF-8.
    """
    found: dict[str, list[Path]] = {}
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if name.startswith(IGNORED_PREFIXES):
            continue
        if normalise_name(name).lower().endswith(extensions):
            check_name(path)
            found.setdefault(stem(name), []).append(path)
        elif depth and path.is_dir():
            check_name(path)
            for key, paths in list_files(path, extensions, depth - 1).items():
                found.setdefault(f"{normalise_name(name)}/{key}", []).extend(paths)
    return found


def list_inputs(inputs: Sequence[Path]) -> list[tuple[str, Path]]:
    """Return the files that are given, and those in the folders that are given and in their sub-folders, with their names.

    The name of a file that is given is its stem. Names of those in a folder begin with the sub-folders, "FOLDER/STEM"; where
    several folders are given, with the folders below the one that holds all of them. Folders of masks beside one of images
    are left out.

    Raises:
        DataError: There is no such file or folder, or a folder holds no image.
    """
    folders = [os.path.abspath(given) for given in inputs if given.is_dir()]
    common = os.path.commonpath(folders) if folders else ""
    found: list[tuple[str, Path]] = []
    for given in inputs:
        if given.is_dir():
            above = [normalise_name(part) for part in Path(os.path.abspath(given)).relative_to(common).parts]
            found += [("/".join([*above, key]), path) for key, path in _list_images(given)]
        elif given.is_file():
            found.append((stem(given.name), given))
        else:
            raise DataError(f"{given} is neither a file nor a folder{did_you_mean_path(given)}")
    return list(dict.fromkeys(found))


def _list_images(folder: Path) -> list[tuple[str, Path]]:
    """Return the keys and paths of the images in a folder, without folders of masks beside one of images.

    Raises DataError if there are none.
    """
    found = list_files(folder, PICTURES + VOLUMES, DEPTH)
    if not found:
        raise DataError(f"{folder} holds no image: give files or folders of {', '.join(PICTURES + VOLUMES)}")
    inside = {place for key in found for place in PurePosixPath(key).parents}
    beside = {place.parent for place in inside if place.name.lower() in IMAGES}
    masks = [place for place in inside if place.parent in beside and _is_of_masks(place.name.lower())]
    left_out = tuple(f"{place}/" for place in masks)
    return [(key, path) for key, paths in found.items() if not key.startswith(left_out) for path in paths]


def _is_of_masks(name: str) -> bool:
    """Return whether a folder of this name, in lower case, holds masks."""
    return name in MASKS or RATERS.fullmatch(name) is not None


def check_name(path: Path) -> None:
    """Raise DataError if the name is not UTF-8: neither a ledger nor a terminal could hold it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        printable = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise DataError(f"{printable} has a name that is not UTF-8: rename it") from None
