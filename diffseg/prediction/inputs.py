"""Inputs of a prediction: pictures, volumes and folders of them, as records without masks."""

from pathlib import Path

from diffseg import data
from diffseg.config import Config
from diffseg.data.files import PICTURES, VOLUMES, is_volume, list_files, stem
from diffseg.data.records import Record
from diffseg.data.slices import list_slices
from diffseg.errors import DataError

AT_ONCE = 16  # pictures that are decoded together


def list_records(config: Config, inputs: list[Path]) -> list[list[Record]]:
    """Return the records of the inputs in groups: the slices of each volume, and pictures, AT_ONCE in a group.

    Raises:
        DataError: An input is missing, holds no image, or has the name of another one.
    """
    pictures: list[Record]
    layout = data.LAYOUTS.get(config.data.layout)
    if layout and layout.list_new:
        slices, pictures = [layout.list_new(path) for path in inputs], []
    else:
        paths = [path for given in inputs for path in _list_images(given)]
        slices = [list(list_slices(_record(path), config.data.axis)) for path in paths if is_volume(path)]
        pictures = [_record(path) for path in paths if not is_volume(path)]
    names: dict[str, Record] = {}
    for record in [*(own[0] for own in slices), *pictures]:
        if (other := names.setdefault(record.group or record.name, record)) is not record:
            raise DataError(
                f"{record.image} and {other.image} have the same name, and so would their predictions: rename one"
            )
    return slices + [pictures[first : first + AT_ONCE] for first in range(0, len(pictures), AT_ONCE)]


def _record(path: Path) -> Record:
    """Return the record of an image without masks. A volume is a group of its own."""
    name = stem(path.name)
    return Record(name, "test", path, (), name if is_volume(path) else None)


def _list_images(given: Path) -> list[Path]:
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
        raise DataError(f"{given} is neither a file nor a folder")
    return [given]
