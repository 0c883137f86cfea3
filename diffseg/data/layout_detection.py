"""Describe a root that is not in the expected layout, and find the command that would read it."""

import json
import os
import shlex
from collections import Counter
from pathlib import Path

from diffseg.config import Data
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
MEANINGS = ("channels", "foreground", "classes", "regions", "ignore", "objects", "axis")  # settings on what files mean
LITTER = ("Thumbs.db", "desktop.ini")
TEXTS = (".csv", ".txt", ".md", ".json")
MAX_FOLDERS = 6  # named in a description


def detect_layout(root: Path) -> str | None:
    """Return the first layout whose signs lie at the root."""
    return next((name for name, (signs, _) in SIGNS.items() if any(any(root.glob(sign)) for sign in signs)), None)


def other_layout_error(root: Path, config: Data, layout: str) -> DataError | None:
    """Return an error with the command that reads the root in another layout, or a folder in the root in any layout.

    None if no such layout is detected, or if several folders hold images: these may be the patients of one data set.
    layout: the one in which the root was looked for.
    """
    other = detect_layout(root)
    if other == layout:
        return None
    if other is not None:
        return DataError(
            f"{root} is in the layout {other}, not {layout}: {check_command(root, config, other)} reads it"
        )
    inside = [(path, found) for path in _list_visible(root) if path.is_dir() and (found := detect_layout(path))]
    if not inside or (inside[1:] and "folder" in dict(inside).values()):
        return None
    path, found = inside[0]
    return DataError(
        f"{root} is no data set, but {path} is, in the layout {found}: {check_command(path, config, found)} reads it"
        + (f", one of {len(inside)} data sets there" if inside[1:] else "")
    )


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


def check_command(root: Path, config: Data, layout: str | None = None) -> str:
    """Return the command that checks the root, in backticks, ready to be pasted, with the settings that say what files mean.

    layout: another one than the data set's.
    """
    settings = [f"data.layout={layout}", *SIGNS[layout][1].split()] if layout else []
    named = {setting.partition("=")[0] for setting in settings}
    plain = Data()
    for field in MEANINGS:
        value = getattr(config, field)
        if value != getattr(plain, field) and f"data.{field}" not in named:
            text = value if isinstance(value, str) else json.dumps(dict(value) if field == "classes" else value)
            settings.append(shlex.quote(f"data.{field}={text}"))
    words = " ".join([shlex.quote(config.name), shlex.quote(str(root)), *settings])
    return f"`diffseg data check {words}`"
