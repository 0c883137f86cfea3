"""Inputs of a prediction: pictures, volumes and folders of them, as records without masks."""

from pathlib import Path

from diffseg import data
from diffseg.config import Config
from diffseg.data.files import is_volume, list_inputs
from diffseg.data.records import Record
from diffseg.data.slices import list_slices
from diffseg.errors import DataError

AT_ONCE = 16  # pictures that are decoded together


def list_records(config: Config, inputs: list[Path], output: Path) -> list[list[Record]]:
    """Return the records of the inputs in groups: the slices of each volume, and pictures, AT_ONCE in a group.

    Args:
        config: The trial.
        inputs: Pictures, volumes, and folders, which are read with their sub-folders.
        output: The folder for the predictions. Earlier ones in it are no input, unless it is given as one.

    Raises:
        DataError: An input is missing, holds no image, or has the name of another one.
    """
    layout = data.LAYOUTS.get(config.data.layout)
    if layout and layout.list_new:
        images = layout.list_new(inputs, config.data)
    else:
        images = [_list_image(name, path, config) for name, path in list_inputs(inputs)]
    if not any(_lies_in(given, output) for given in inputs):
        images = [own for own in images if not _lies_in(own[0].image, output)]
    if not images:
        raise DataError(f"{output} holds all images that are given: give other images, or another --output")
    names: dict[str, Record] = {}
    for record, *_ in images:
        if (other := names.setdefault(record.shared_name, record)) is not record:
            raise DataError(
                f"{record.image} and {other.image} have the same name, and so would their predictions: rename one"
            )
    slices = [own for own in images if own[0].volume]
    pictures = [record for own in images for record in own if not record.volume]
    return slices + [pictures[first : first + AT_ONCE] for first in range(0, len(pictures), AT_ONCE)]


def _lies_in(path: Path, folder: Path) -> bool:
    """Return whether a path is the folder or lies below it."""
    return path.resolve().is_relative_to(folder.resolve())


def _list_image(name: str, path: Path, config: Config) -> list[Record]:
    """Return the records of an image without masks: the slices of a volume, which is a group of its own, or a picture."""
    if is_volume(path):
        return [*list_slices(Record(name, "test", path, (), name), config.data.axis)]
    return [Record(name, "test", path, ())]
