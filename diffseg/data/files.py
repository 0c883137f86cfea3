"""Image and mask files: which there are, and their shape and pixels, of pictures and of volumes alike."""

import os
from pathlib import Path

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
VOLUMES = (".nii", ".nii.gz")


def stem(name: str) -> str:
    """A file's name without its extension."""
    return name.removesuffix(".gz").rsplit(".", 1)[0]


def is_volume(path: Path) -> bool:
    return path.name.lower().endswith(VOLUMES)


def files_in(folder: Path, extensions: tuple[str, ...] = PICTURES) -> dict[str, list[Path]]:
    """Files of a folder by stem; it should be one a stem."""
    found: dict[str, list[Path]] = {}
    for name in sorted(os.listdir(folder)):
        if name.lower().endswith(extensions) and not name.startswith("."):
            found.setdefault(stem(name), []).append(folder / name)
    return found
