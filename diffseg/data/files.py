"""Image and mask files: which there are, and their shape and pixels, of pictures and of volumes alike."""

import os
import re
import unicodedata
from pathlib import Path

from diffseg.errors import DataError

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
VOLUMES = (".nii", ".nii.gz")
EXTENSION = re.compile(r"\.(png|jpe?g|tiff?|bmp|nii|nii\.gz|xml)$", re.IGNORECASE)
PASSED_OVER = (".", "__MACOSX")  # hidden files and what archives leave


def stem(name: str) -> str:
    """A file's name without its extension, in Unicode's composed form (NFC), without blanks at its ends."""
    return EXTENSION.sub("", composed(name)).strip()


def composed(name: str) -> str:
    """A name as it is compared: macOS writes é as two characters (NFD), other systems as one (NFC)."""
    return unicodedata.normalize("NFC", name).strip()


def is_volume(path: Path) -> bool:
    return path.name.lower().endswith(VOLUMES)


def files_in(folder: Path, extensions: tuple[str, ...] = PICTURES, depth: int = 0) -> dict[str, list[Path]]:
    """Files of a folder by stem; it should be one a stem. Raises DataError for a name that is not UTF-8.

    depth: levels of sub-folders that are read, too; the stem of such a file is "FOLDER/STEM".
    """
    found: dict[str, list[Path]] = {}
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if name.startswith(PASSED_OVER):
            continue
        if composed(name).lower().endswith(extensions):
            check_name(path)
            found.setdefault(stem(name), []).append(path)
        elif depth and path.is_dir():
            check_name(path)
            for key, paths in files_in(path, extensions, depth - 1).items():
                found.setdefault(f"{composed(name)}/{key}", []).extend(paths)
    return found


def check_name(path: Path) -> None:
    """Raise DataError if the name is not UTF-8: neither a ledger nor a terminal could hold it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise DataError(f"{shown} has a name that is not UTF-8: rename it") from None
