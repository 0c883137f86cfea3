"""The file `dataset.json` of nnU-Net v2 and of the Medical Segmentation Decathlon: channels, labels and cases.

nnU-Net gives numbers to names: "labels" {"background": 0, "core": [2, 3], "ignore": 4} with "channel_names". The Decathlon
gives names to numbers: "labels" {"0": "background", "1": "tumour"} with "modality", and lists the cases in "training".
"""

from dataclasses import dataclass
from pathlib import Path

from diffseg.data.dataset_labels import NamedValues, read_labels
from diffseg.data.files import PICTURES, VOLUMES
from diffseg.data.json_tables import Table, load_table, refuse, shorten
from diffseg.errors import DataError

FILE = "dataset.json"


@dataclass(frozen=True)
class ListedCase:
    """A case that the file lists."""

    name: str | None  # None: it is that of the label's file
    images: tuple[Path, ...]
    label: Path


@dataclass(frozen=True)
class DatasetJson:
    """What a `dataset.json` says."""

    path: Path
    channels: tuple[str, ...]  # their names
    classes: NamedValues  # name and values, without the background
    ignored: tuple[int, ...]
    ending: str | None  # of the names of images and labels; None if it is not given
    count: int | None  # of training cases; None if it is not given
    cases: tuple[ListedCase, ...] | None  # of training; None if they are not listed

    @property
    def regions(self) -> bool:
        """Whether classes share values."""
        values = [value for _, own in self.classes for value in own]
        return len(set(values)) < len(values)

    def settings(self) -> Table:
        """Return the settings of `data` that follow, by their dotted paths."""
        found: Table = {
            "data.channels": len(self.channels),
            "data.classes": {name: list(values) for name, values in self.classes},
        }
        if self.regions:
            found["data.regions"] = True
        return found | ({"data.ignore": list(self.ignored)} if self.ignored else {})


def read_dataset_json(root: Path) -> DatasetJson:
    """Read the file at the root of a data set. Raises DataError for what is missing in it or cannot be."""
    path = root / FILE
    if not path.is_file():
        raise DataError(
            f"{root} has no {FILE}: a data set of nnU-Net or of the Medical Segmentation Decathlon holds one beside imagesTr/ "
            "and labelsTr/"
        )
    content = load_table(path)
    classes, ignored = read_labels(path, content)
    return DatasetJson(
        path,
        _read_channels(path, content),
        classes,
        ignored,
        _read_ending(path, content),
        _read_count(path, content),
        _read_cases(path, content),
    )


def _read_channels(path: Path, content: Table) -> tuple[str, ...]:
    """Return the names of the channels. Raises DataError."""
    found = content.get("channel_names", content.get("modality"))
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        refuse(path, 'has no table "channel_names" or "modality", such as {"0": "T1", "1": "T2"}')
    numbers = [str(number) for number in range(len(found))]
    if set(found) != set(numbers):
        refuse(path, f"numbers its channels {', '.join(found)[:60]}: they are 0, 1 and so on")
    return tuple(found[number] for number in numbers)


def _read_ending(path: Path, content: Table) -> str | None:
    """Return the ending of the names of files. Raises DataError for one that cannot be read."""
    ending = content.get("file_ending")
    if ending is None:
        return None
    if not isinstance(ending, str) or ending.lower() not in PICTURES + VOLUMES:
        refuse(
            path,
            f"has the file_ending {shorten(ending)}: {', '.join(PICTURES + VOLUMES)} can be read, so convert the files",
        )
    return ending.lower()


def _read_count(path: Path, content: Table) -> int | None:
    """Return the number of training cases. Raises DataError."""
    count = content.get("numTraining")
    if count is not None and (type(count) is not int or count < 0):
        refuse(path, f"has numTraining {shorten(count)}: it is the number of training cases")
    return count


def _read_cases(path: Path, content: Table) -> tuple[ListedCase, ...] | None:
    """Return the cases that nnU-Net's "dataset" or the Decathlon's "training" lists. Raises DataError."""
    cases, training = content.get("dataset"), content.get("training")
    found: list[ListedCase] = []
    if isinstance(cases, dict):
        for name, case in cases.items():
            images, label = (case.get("images"), case.get("label")) if isinstance(case, dict) else (None, None)
            if not isinstance(images, list) or not images or not all(isinstance(one, str) for one in (*images, label)):
                refuse(path, f'lists case {name} in another way than {{"images": ["…"], "label": "…"}}')
            found.append(ListedCase(name, tuple(path.parent / one for one in images), path.parent / str(label)))
        return _check_distinct(path, found)
    if not isinstance(training, list) or not training:
        return None
    for case in training:
        image, label = (case.get("image"), case.get("label")) if isinstance(case, dict) else (None, None)
        if not isinstance(image, str) or not isinstance(label, str):
            refuse(path, f'lists {shorten(case)} in training: a case is {{"image": "…", "label": "…"}}')
        found.append(ListedCase(None, (path.parent / image,), path.parent / label))
    return _check_distinct(path, found)


def _check_distinct(path: Path, cases: list[ListedCase]) -> tuple[ListedCase, ...]:
    """Return the cases. Raises DataError if two of them have a file in common."""
    seen: set[Path] = set()
    for case in cases:
        for file in dict.fromkeys((*case.images, case.label)):
            if file in seen:
                refuse(path, f"lists {file.name} in two cases: give each case files of its own")
            seen.add(file)
    return tuple(cases)
