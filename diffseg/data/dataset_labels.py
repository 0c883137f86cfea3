"""The labels that a `dataset.json` names, and what cannot be."""

import re
from collections.abc import Iterable
from pathlib import Path

from diffseg.config.data import BACKGROUND, CLASS_NAME, MAX_LABELS
from diffseg.data.json_tables import Table, refuse, shorten

LARGEST = 2**31 - 1  # that a label can be
IGNORE = "ignore"  # nnU-Net's label of pixels that count nowhere
LONGEST = 40  # characters of a class's name

NamedValues = tuple[tuple[str, tuple[int, ...]], ...]  # names of classes and their values


def read_labels(path: Path, content: Table) -> tuple[NamedValues, tuple[int, ...]]:
    """Return the classes without the background, and the values that are ignored. Raises DataError."""
    names, numbers = _read_numbers(path, content)
    ignored = tuple(numbers.pop(IGNORE, ()))
    classes = tuple((names[key], tuple(values)) for key, values in numbers.items())
    if not classes:
        refuse(path, 'has no label besides the background: name them in "labels"')
    _check_values(path, classes, ignored)
    _check_order(path, content, classes)
    _check_regions(path, content, classes)
    return classes, ignored


def _read_numbers(path: Path, content: Table) -> tuple[dict[str, str], dict[str, list[int]]]:
    """Return the name and the values of each label but the background, by nnU-Net's name. Raises DataError."""
    labels = content.get("labels")
    if not isinstance(labels, dict) or not labels:
        refuse(path, 'has no table "labels", such as {"background": 0, "tumour": 1}')
    numbers: dict[str, list[int]] = {}
    if all(key.isdecimal() and key.isascii() for key in labels):  # the Decathlon's: names by numbers
        for key, name in labels.items():
            if not isinstance(name, str):
                refuse(path, f"gives label {key} the name {shorten(name)}: names are texts")
            numbers.setdefault(name, []).append(int(key))
        _remove_background(path, numbers)
        return _name_classes(path, numbers), numbers
    for name, value in labels.items():
        values = value if isinstance(value, list) else [value]
        if not values or not all(type(one) is int and 0 <= one <= LARGEST for one in values):
            refuse(
                path,
                f"gives the label '{name[:LONGEST]}' {shorten(value)}: allowed are whole numbers up to {LARGEST} and lists of them",
            )
        if name == IGNORE and len(values) > 1:
            refuse(path, f"gives the label '{IGNORE}' {shorten(value)}: it is one number")
        numbers[name] = list(dict.fromkeys(values))
    _remove_background(path, numbers)
    return _name_classes(path, (name for name in numbers if name != IGNORE)), numbers


def _remove_background(path: Path, numbers: dict[str, list[int]]) -> None:
    """Remove the background from the values by label. Raises DataError if it has others than 0, or if another label is 0."""
    for name in [name for name in numbers if name.strip().casefold() == BACKGROUND]:
        if numbers[name] != [0]:
            refuse(path, f"gives the background the value {shorten(numbers[name][-1])}: it is 0")
        del numbers[name]
    for name, values in numbers.items():
        if values == [0]:
            refuse(
                path,
                f"gives the label '{name[:LONGEST]}' the value 0, which is that of the background: call it so if it is that",
            )


def _name_classes(path: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the class's name for each label. Characters that it must not have become "-". Raises DataError."""
    found: dict[str, str] = {}
    for name in names:
        found[name] = re.sub(r"[^\w .+-]", "-", name.strip()).lstrip(" _.+-")[:LONGEST].rstrip()
        if not re.fullmatch(CLASS_NAME, found[name]) or found[name] == "all":
            refuse(path, f"has the label '{name[:LONGEST]}', which is no name of a class: {_BY_HAND}")
    chosen = list(found.values())
    if repeated := [name for name, own in found.items() if chosen.count(own) > 1]:
        refuse(path, f"has the labels {' and '.join(map(repr, repeated[:2]))}, which look alike: {_BY_HAND}")
    return found


_BY_HAND = "rename it there, or name the classes in data.classes"


def _check_values(path: Path, classes: NamedValues, ignored: tuple[int, ...]) -> None:
    """Raise DataError if a class has the value of the background or of ignored pixels, or if there are too many values."""
    for name, values in classes:
        for kind, taken in (("the background", (0,)), (f"'{IGNORE}'", ignored)):
            if shared := set(values) & set(taken):
                refuse(path, f"gives the label '{name}' the value {shared.pop()}, which is that of {kind}")
    if len({value for _, values in classes for value in values}) > MAX_LABELS:
        refuse(path, f"has more than {MAX_LABELS} labels: name those to be learnt in data.classes")


def _check_regions(path: Path, content: Table, classes: NamedValues) -> None:
    """Raise DataError if classes share a value and nothing else says that they are regions: no list, and no order of them."""
    if "regions_class_order" in content or any(len(values) > 1 for _, values in classes):
        return
    owners: dict[int, str] = {}
    for name, (value, *_) in classes:
        if value in owners:
            refuse(
                path,
                f"gives the labels '{owners[value]}' and '{name}' the value {value}: correct one of them, or give "
                "regions_class_order if they are regions that overlap",
            )
        owners[value] = name


def _check_order(path: Path, content: Table, classes: NamedValues) -> None:
    """Raise DataError if nnU-Net's order of regions has another number of them than there are. It is not used otherwise."""
    order = content.get("regions_class_order")
    if order is None:
        return
    if not isinstance(order, list) or not all(type(one) is int for one in order):
        refuse(path, f"has the regions_class_order {shorten(order)}: it is a list of whole numbers")
    if len(order) != len(classes):
        count = len(order)
        refuse(
            path, f"has {len(classes)} regions, but its regions_class_order has {count}: give it one number a region"
        )
