"""The layouts that data sets have on disk, and the search for the images of one data set.

A new layout is a module with a function `find`, an entry in LAYOUTS, and its name in `Data.layout` (diffseg/config/data.py).
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffseg.config import Data
from diffseg.data import brats, folder, isic16, lidc, monuseg, nnunet
from diffseg.data.files import check_name
from diffseg.data.layout_detection import other_layout_error
from diffseg.data.listing import Listing, find_conflicts
from diffseg.data.records import Record
from diffseg.data.slices import describe_slicing
from diffseg.errors import DataError
from diffseg.labels.classes import Classes
from diffseg.suggestions import did_you_mean_path


@dataclass(frozen=True)
class Layout:
    """How the files of a data set lie below its root."""

    find: Callable[[Path, Data], Listing]  # list the images and masks at a root; DataError if it is in another layout
    # lists new images without masks, given files and folders: the slices of each volume, and each picture in a list of its
    # own. None: every input is a picture, a NIfTI volume or a folder of these
    list_new: Callable[[list[Path], Data], list[list[Record]]] | None = None
    # returns the settings that files at the root give, by their dotted paths; None: there are none
    read_settings: Callable[[Path], dict[str, Any]] | None = None


LAYOUTS = {
    "isic16": Layout(isic16.find),
    "monuseg": Layout(monuseg.find),
    "lidc": Layout(lidc.find),
    "brats": Layout(brats.find, brats.list_new),
    "nnunet": Layout(nnunet.find, nnunet.list_new, nnunet.read_settings),
    "folder": Layout(folder.find),
}


def find(config: Data, root: Path | None) -> Listing:
    """List the images at the root, without decoding them. Raises DataError if the root is missing or in another layout."""
    return list_images(config, check_root(config, root))


def list_images(config: Data, root: Path) -> Listing:
    """Like `find`, for a root that `check_root` has returned."""
    _check_names(root)
    try:
        found = LAYOUTS[config.layout].find(root, config)
    except DataError as error:
        raise other_layout_error(root, config, config.layout) or error from None
    except OSError as error:
        raise DataError(f"{error.filename or root} cannot be read ({error.strerror}): allow reading it") from None
    remarks = found.remarks + describe_slicing(found.records, config.axis)
    records = _set_classes(config, root, found.records)
    return Listing(records, found.problems + find_conflicts(records), remarks)


def check_root(config: Data, root: Path | None) -> Path:
    """Return the root. Raises DataError if it is missing or is not a folder."""
    if config.layout == "synthetic":
        raise DataError(
            f"data set {config.name} has layout synthetic, which is drawn and has no files: "
            f"give the layout of the files, such as data.layout=folder (allowed are {', '.join(LAYOUTS)})"
        )
    if root is None:
        raise DataError(f"data set {config.name} has no root: give --data {config.name}=ROOT")
    if not root.is_dir():
        raise DataError(
            f"the root of data set {config.name} is {root}, which is not a folder{did_you_mean_path(root)}: give the folder "
            "of its images and masks"
        )
    return root


def _set_classes(config: Data, root: Path, records: Sequence[Record]) -> tuple[Record, ...]:
    """Set what the pixels of masks may mean. Raises DataError for classes in a layout whose masks have no values."""
    given = "data.classes" if config.classes else "data.ignore"
    classes = Classes.of(config)
    if (config.classes or config.ignore) and any(not one.stores_labels and not one.holds_values for one in records):
        raise DataError(
            f"{given} lists values of masks, but those of {root} are not stored as values (layout {config.layout}): "
            f"leave {given} out"
        )
    return tuple(replace(record, classes=classes) for record in records)


def _check_names(root: Path) -> None:
    """Raise DataError if the name of the root, or of a file or folder below it, is not UTF-8."""
    check_name(root)
    for place, folders, files in os.walk(root):
        for name in (*folders, *files):
            if not name.isascii():
                check_name(Path(place, name))
