"""What lies at a root that is not in the expected layout, and the command that would read it."""

import os
import shlex
from collections import Counter
from pathlib import Path

from diffseg.data.files import PASSED_OVER
from diffseg.errors import DataError

SIGNS = {  # what only lies at the root of a layout, and the settings that read it
    "isic16": (("ISBI2016_ISIC_Part*",), ""),
    "monuseg": (("MoNuSeg 2018 Training Data", "MoNuSegTestData"), ""),
    "lidc": (("*/nodule-*", "LIDC-IDRI-slices", "gt/*/z-*_c*_l0.png", "train/gt/*/z-*_c*_l0.png"), ""),
    "brats": (("*/*_flair.nii*",), " data.channels=4"),
    "folder": (("[Ii]mages", "[Tt]rain/[Ii]mages", "imagesTr", "split.csv"), ""),
}
LITTER = ("Thumbs.db", "desktop.ini")
TEXTS = (".csv", ".txt", ".md")
SHOWN = 6


def layout_of(root: Path) -> str | None:
    """The layout whose signs lie at the root."""
    return next((name for name, (signs, _) in SIGNS.items() if any(any(root.glob(sign)) for sign in signs)), None)


def elsewhere(root: Path, name: str, layout: str) -> DataError | None:
    """That the root is in another layout, or a folder in it is in any, with the command that reads it."""
    other = layout_of(root)
    if other not in (None, layout):
        return DataError(f"{root} is in the layout {other}, not {layout}: {_command(root, name, other)} reads it")
    nested = [(path, found) for path in _inside(root) if path.is_dir() and (found := layout_of(path))]
    if other is None and nested:
        path, found = nested[0]
        return DataError(
            f"{root} is no data set, but {path} is, in the layout {found}: {_command(path, name, found)} reads it"
        )
    return None


def contents(folder: Path) -> str:
    """What a folder holds, in a few words."""
    inside = _inside(folder)
    folders = [f"{path.name}/" for path in inside if path.is_dir()]
    kinds = Counter(path.suffix.lower() or "other" for path in inside if not path.is_dir())
    named = [", ".join(folders[:SHOWN]) + (f" and {len(folders) - SHOWN} more folders" if folders[SHOWN:] else "")]
    return (
        " and ".join([*filter(None, named), *(f"{count} {kind} files" for kind, count in kinds.items())]) or "no files"
    )


def unused(root: Path, used: set[Path]) -> list[Path]:
    """The files below the root that are not used, without tables, texts, and what systems and archives leave."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(PASSED_OVER)]
        found += [Path(folder) / name for name in names if not name.startswith((*PASSED_OVER, *LITTER))]
    return sorted(path for path in found if path not in used and path.suffix.lower() not in TEXTS)


def _inside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith(PASSED_OVER))


def _command(root: Path, name: str, layout: str) -> str:
    return f"`diffseg data check {shlex.quote(name)} {shlex.quote(str(root))} data.layout={layout}{SIGNS[layout][1]}`"
