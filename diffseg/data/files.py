"""Find the image and mask files in a folder, pictures and volumes, by names that are the same on every system."""

import os
import re
import unicodedata
from pathlib import Path

from diffseg.errors import DataError
from diffseg.suggestions import did_you_mean_path

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
VOLUMES = (".nii", ".nii.gz")
EXTENSION = re.compile(r"\.(png|jpe?g|tiff?|bmp|nii|nii\.gz|xml)$", re.IGNORECASE)
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


def list_inputs(given: Path) -> list[Path]:
    """Return the file itself, or the images in a folder.

    Raises:
        DataError: There is no such file or folder, or the folder holds no image.
    """
    if given.is_dir():
        found = [path for paths in list_files(given, PICTURES + VOLUMES).values() for path in paths]
        if not found:
            raise DataError(f"{given} holds no image: give files or folders of {', '.join(PICTURES + VOLUMES)}")
        return found
    if not given.is_file():
        raise DataError(f"{given} is neither a file nor a folder{did_you_mean_path(given)}")
    return [given]


def check_name(path: Path) -> None:
    """Raise DataError if the name is not UTF-8: neither a ledger nor a terminal could hold it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        printable = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise DataError(f"{printable} has a name that is not UTF-8: rename it") from None
