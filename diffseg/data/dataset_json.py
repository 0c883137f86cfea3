"""The file `dataset.json` of nnU-Net v2 and of the Medical Segmentation Decathlon: channels, labels and cases.

nnU-Net gives numbers to names: "labels" {"background": 0, "core": [2, 3], "ignore": 4} with "channel_names". The Decathlon
gives names to numbers: "labels" {"0": "background", "1": "tumour"} with "modality", and lists the cases in "training".
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from diffseg.config.data import CLASS_NAME, MAX_LABELS
from diffseg.data.files import PICTURES, VOLUMES
from diffseg.data.opening import data_errors, open_file
from diffseg.errors import DataError

FILE = "dataset.json"
IGNORE = "ignore"  # nnU-Net's label of pixels that count nowhere
LONGEST = 40  # characters of a class's name

Table = dict[str, Any]


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
    classes: tuple[tuple[str, tuple[int, ...]], ...]  # name and values, without the background
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
    content = _load(path)
    names, numbers = _read_labels(path, content)
    ignored = tuple(numbers.pop(IGNORE, ()))
    classes = tuple((names[key], tuple(values)) for key, values in numbers.items() if values != [0])
    if not classes:
        _refuse(path, 'has no label besides the background: name them in "labels"')
    _check_values(path, classes, ignored)
    _check_order(path, content, classes)
    return DatasetJson(
        path,
        _read_channels(path, content),
        classes,
        ignored,
        _read_ending(path, content),
        _read_count(path, content),
        _read_cases(path, content),
    )


def _load(path: Path) -> Table:
    """Return the content of the file. Raises DataError unless it is a table in JSON."""
    with open_file(path) as file, data_errors(path):
        content = file.read()
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON ({error}): correct it, or copy it anew") from None
    if not isinstance(found, dict):
        _refuse(path, "holds no table: nnU-Net's has channel_names, labels, numTraining and file_ending")
    return found


def _read_labels(path: Path, content: Table) -> tuple[dict[str, str], dict[str, list[int]]]:
    """Return the name and the values of each label, by nnU-Net's name. Raises DataError."""
    labels = content.get("labels")
    if not isinstance(labels, dict) or not labels:
        _refuse(path, 'has no table "labels", such as {"background": 0, "tumour": 1}')
    numbers: dict[str, list[int]] = {}
    if all(key.isdecimal() and key.isascii() for key in labels):  # the Decathlon's: names by numbers
        for key, name in labels.items():
            if not isinstance(name, str):
                _refuse(path, f"gives label {key} the name {_shorten(name)}: names are texts")
            if key == "0":
                continue
            numbers.setdefault(name, []).append(int(key))
        return _name_classes(path, numbers), numbers
    for name, value in labels.items():
        values = value if isinstance(value, list) else [value]
        if not values or not all(type(one) is int and one >= 0 for one in values):
            _refuse(
                path,
                f"gives the label '{name[:LONGEST]}' {_shorten(value)}: allowed are whole numbers and lists of them",
            )
        if name == IGNORE and len(values) > 1:
            _refuse(path, f"gives the label '{IGNORE}' {_shorten(value)}: it is one number")
        numbers[name] = list(dict.fromkeys(values))
    return _name_classes(path, (name for name in numbers if name != IGNORE)), numbers


def _name_classes(path: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the class's name for each label. Characters that it must not have become "-". Raises DataError."""
    found: dict[str, str] = {}
    for name in names:
        found[name] = re.sub(r"[^\w .+-]", "-", name.strip()).lstrip(" _.+-")[:LONGEST].rstrip()
        if not re.fullmatch(CLASS_NAME, found[name]) or found[name] == "all":
            _refuse(path, f"has the label '{name[:LONGEST]}', which is no name of a class: {_BY_HAND}")
    chosen = list(found.values())
    if repeated := [name for name, own in found.items() if chosen.count(own) > 1]:
        _refuse(path, f"has the labels {' and '.join(map(repr, repeated[:2]))}, which look alike: {_BY_HAND}")
    return found


_BY_HAND = "rename it there, or name the classes in data.classes"


def _check_values(path: Path, classes: Sequence[tuple[str, tuple[int, ...]]], ignored: tuple[int, ...]) -> None:
    """Raise DataError if a class has the value of the background or of ignored pixels, or if there are too many values."""
    for name, values in classes:
        for kind, taken in (("the background", (0,)), (f"'{IGNORE}'", ignored)):
            if shared := set(values) & set(taken):
                _refuse(path, f"gives the label '{name}' the value {shared.pop()}, which is that of {kind}")
    if len({value for _, values in classes for value in values}) > MAX_LABELS:
        _refuse(path, f"has more than {MAX_LABELS} labels: name those to be learnt in data.classes")


def _check_order(path: Path, content: Table, classes: Sequence[tuple[str, tuple[int, ...]]]) -> None:
    """Raise DataError if nnU-Net's order of regions has another number of them than there are. It is not used otherwise."""
    order = content.get("regions_class_order")
    if order is None:
        return
    if not isinstance(order, list) or len(order) != len(classes):
        count = len(order) if isinstance(order, list) else _shorten(order)
        _refuse(
            path, f"has {len(classes)} regions, but its regions_class_order has {count}: give it one number a region"
        )


def _read_channels(path: Path, content: Table) -> tuple[str, ...]:
    """Return the names of the channels. Raises DataError."""
    found = content.get("channel_names", content.get("modality"))
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        _refuse(path, 'has no table "channel_names" or "modality", such as {"0": "T1", "1": "T2"}')
    numbers = [str(number) for number in range(len(found))]
    if set(found) != set(numbers):
        _refuse(path, f"numbers its channels {', '.join(found)[:60]}: they are 0, 1 and so on")
    return tuple(found[number] for number in numbers)


def _read_ending(path: Path, content: Table) -> str | None:
    """Return the ending of the names of files. Raises DataError for one that cannot be read."""
    ending = content.get("file_ending")
    if ending is None:
        return None
    if not isinstance(ending, str) or ending.lower() not in PICTURES + VOLUMES:
        _refuse(
            path,
            f"has the file_ending {_shorten(ending)}: {', '.join(PICTURES + VOLUMES)} can be read, so convert the files",
        )
    return ending.lower()


def _read_count(path: Path, content: Table) -> int | None:
    """Return the number of training cases. Raises DataError."""
    count = content.get("numTraining")
    if count is not None and (type(count) is not int or count < 0):
        _refuse(path, f"has numTraining {_shorten(count)}: it is the number of training cases")
    return count


def _read_cases(path: Path, content: Table) -> tuple[ListedCase, ...] | None:
    """Return the cases that nnU-Net's "dataset" or the Decathlon's "training" lists. Raises DataError."""
    cases, training = content.get("dataset"), content.get("training")
    found: list[ListedCase] = []
    if isinstance(cases, dict):
        for name, case in cases.items():
            images, label = (case.get("images"), case.get("label")) if isinstance(case, dict) else (None, None)
            if not isinstance(images, list) or not images or not all(isinstance(one, str) for one in (*images, label)):
                _refuse(path, f'lists case {name} in another way than {{"images": ["…"], "label": "…"}}')
            found.append(ListedCase(name, tuple(path.parent / one for one in images), path.parent / str(label)))
        return tuple(found)
    if not isinstance(training, list) or not training:
        return None
    for case in training:
        image, label = (case.get("image"), case.get("label")) if isinstance(case, dict) else (None, None)
        if not isinstance(image, str) or not isinstance(label, str):
            _refuse(path, f'lists {_shorten(case)} in training: a case is {{"image": "…", "label": "…"}}')
        found.append(ListedCase(None, (path.parent / image,), path.parent / label))
    return tuple(found)


def _refuse(path: Path, what: str) -> NoReturn:
    """Raise DataError for the file, as one sentence."""
    raise DataError(f"{path} {what}")


def _shorten(value: Any) -> str:
    """Return a value as JSON, cut off where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"
