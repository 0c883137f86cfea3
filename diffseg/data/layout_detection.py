"""Describe a root that is not in the expected layout, and find the command that would read it."""

import os
import shlex
from collections import Counter
from pathlib import Path

from diffseg.data.files import IGNORED_PREFIXES
from diffseg.errors import DataError

SIGNS = {  # by layout: patterns of what lies at the root of no other, and the further settings that reading it takes
    "isic16": (("ISBI2016_ISIC_Part*",), ""),
    "monuseg": (("MoNuSeg 2018 Training Data", "MoNuSegTestData"), ""),
    "lidc": (("*/nodule-*", "LIDC-IDRI-slices", "gt/*/z-*_c*_l0.png", "train/gt/*/z-*_c*_l0.png"), ""),
    "brats": (("*/*_flair.nii*",), " data.channels=4"),
    "nnunet": (("dataset.json",), ""),
    "folder": (("[Ii]mages", "[Tt]rain/[Ii]mages", "imagesTr", "split.csv"), ""),
}
LITTER = ("Thumbs.db", "desktop.ini")
TEXTS = (".csv", ".txt", ".md", ".json")
MAX_FOLDERS = 6  # named in a description


def detect_layout(root: Path) -> str | None:
    """Return the first layout whose signs lie at the root."""
    return next((name for name, (signs, _) in SIGNS.items() if any(any(root.glob(sign)) for sign in signs)), None)


def other_layout_error(root: Path, name: str, layout: str) -> DataError | None:
    """Return an error with the command that reads the root in another layout, or a folder in the root in any layout.

    None if no such layout is detected. name, layout: those of the data set as configured.
    """
    other = detect_layout(root)
    if other == layout:
        return None
    if other is not None:
        return DataError(f"{root} is in the layout {other}, not {layout}: {_check_command(root, name, other)} reads it")
    for path in _list_visible(root):
        if path.is_dir() and (found := detect_layout(path)):
            return DataError(
                f"{root} is no data set, but {path} is, in the layout {found}: {_check_command(path, name, found)} reads it"
            )
    return None


def describe_contents(folder: Path) -> str:
    """Return what a folder holds, such as "images/, truth/ and 2 .png files"."""
    inside = _list_visible(folder)
    folders = [f"{path.name}/" for path in inside if path.is_dir()]
    more = f" and {len(folders) - MAX_FOLDERS} more folders" if folders[MAX_FOLDERS:] else ""
    parts = [", ".join(folders[:MAX_FOLDERS]) + more] if folders else []
    kinds = Counter(path.suffix.lower() or "other" for path in inside if not path.is_dir())
    parts += [f"{count} {kind} file{'s' * (count != 1)}" for kind, count in kinds.items()]
    return " and ".join(parts) or "no files"


def list_unused(root: Path, used: set[Path]) -> list[Path]:
    """Return the files below the root that are not used, without tables, texts, and what systems and archives leave."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(IGNORED_PREFIXES)]
        found += [Path(folder) / name for name in names if not name.startswith((*IGNORED_PREFIXES, *LITTER))]
    return sorted(path for path in found if path not in used and path.suffix.lower() not in TEXTS)


def _list_visible(folder: Path) -> list[Path]:
    """Return what a folder holds, without hidden files and what archives leave."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(IGNORED_PREFIXES))


def _check_command(root: Path, name: str, layout: str) -> str:
    """Return the command that checks the root in a layout, in backticks, ready to be pasted."""
    settings = f"data.layout={layout}{SIGNS[layout][1]}"
    return f"`diffseg data check {shlex.quote(name)} {shlex.quote(str(root))} {settings}`"
