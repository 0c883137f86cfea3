"""The layout `nnunet`: a raw data set of nnU-Net v2, or of the Medical Segmentation Decathlon, as it is.

`dataset.json` says what the channels and labels are. `imagesTr/CASE_0000.nii.gz`, `CASE_0001.nii.gz` and so on are the
channels of a case, or `imagesTr/CASE.nii.gz` holds all of them; `labelsTr/CASE.nii.gz` are its labels. Pictures are named
likewise.
"""

import json
import re
import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from diffseg.config import Data
from diffseg.data import nifti, pictures
from diffseg.data.channels import MultiFile
from diffseg.data.dataset_json import FILE, DatasetJson, ListedCase, read_dataset_json
from diffseg.data.files import PICTURES, VOLUMES, is_volume, list_files, list_inputs, stem
from diffseg.data.layout_detection import describe_contents
from diffseg.data.listing import Files, Listing, find_duplicates, missing_folder
from diffseg.data.records import Record
from diffseg.data.slices import list_slices
from diffseg.data.split_table import apply_table
from diffseg.errors import DataError

CHANNEL = re.compile(r"(?P<case>.+)_(?P<number>\d{4})")
EXPECTED = f"nnU-Net's raw data are imagesTr/, labelsTr/ and {FILE}"


@dataclass(frozen=True)
class Case:
    """A case's files."""

    name: str
    images: dict[int, Path]  # by the number of the channel; 0 alone if one file holds all of them
    label: Path


@dataclass(frozen=True)
class Cases:
    """The cases that can be used, a sentence for every file that cannot, and the number of all cases."""

    usable: list[Case]
    problems: list[str]
    count: int


def is_root(root: Path) -> bool:
    """Return whether a folder is the root of such a data set."""
    return (root / FILE).is_file() and (root / "imagesTr").is_dir()


def read_settings(root: Path) -> dict[str, Any]:
    """Return the settings that `dataset.json` gives, by their dotted paths. Raises DataError."""
    return read_dataset_json(root).settings()


def find(root: Path, config: Data) -> Listing:
    """List the cases, each slice of a volume as an image of its case.

    imagesTs is tested on if there is labelsTs; else `split.csv` gives the splits, or they are drawn. Raises DataError if
    the labels are not named in the settings, or if there is no case.
    """
    info = read_dataset_json(root)
    if not config.classes and not config.foreground:
        raise DataError(f"{info.path} names labels, but the settings name none: set {_format(info.settings())}")
    images, labels = (root / name for name in ("imagesTs", "labelsTs"))
    tested = _holds_files(images, info) and _holds_files(labels, info)
    training = _find_training(root, info)
    parts = [_list_cases(training, "train" if tested else None, info, config)]
    if info.count not in (None, training.count):
        counted = f"{info.path} says numTraining is {info.count}, but there are {training.count} cases"
        parts.append(Listing((), (f"{counted}: add the missing files, or correct the number",)))
    if tested:
        parts.append(_list_cases(_find_cases(images, labels, info), "test", info, config))
    elif _holds_files(images, info):
        parts.append(Listing((), (), (f"{images} is not used, since it has no labels in {labels.name}",)))
    return apply_table(root, Listing.join(parts), split_by_folders=tested)


def list_new(inputs: list[Path], config: Data) -> list[list[Record]]:
    """List new cases without labels: CASE_0000, CASE_0001 and so on, in one folder, are the channels of CASE.

    Files whose numbers are not those of the channels are cases of their own. Raises DataError.
    """
    found: dict[tuple[Path, str, str], dict[int, tuple[str, Path]]] = {}
    for name, path in sorted(list_inputs(inputs), key=lambda one: one[1]):
        match = CHANNEL.fullmatch(name)
        place, case = (path.parent, match["case"]) if match else (path, name)
        ending = path.name[len(stem(path.name)) :]
        found.setdefault((place, case, ending), {})[int(match["number"]) if match else 0] = name, path
    cases: list[tuple[str, list[Path]]] = []
    for (_, case, _), files in found.items():
        joined = list(files) == list(range(len(files))) and len(files) in (1, config.channels)
        cases += (
            [(case, [path for _, path in files.values()])]
            if joined
            else [(name, [path]) for name, path in files.values()]
        )
    return [[*_make_records(name, paths, (), "test", config)] for name, paths in cases]


def _find_training(root: Path, info: DatasetJson) -> Cases:
    """Return the training cases: those that the file lists, or all there are."""
    if info.cases is None:
        for name in ("imagesTr", "labelsTr"):
            if not (root / name).is_dir():
                raise missing_folder(root, name, EXPECTED)
        return _find_cases(root / "imagesTr", root / "labelsTr", info)
    listed, cases, problems = [_resolve(one) for one in info.cases], [], []
    for case in listed:
        if missing := [path for path in (*case.images.values(), case.label) if not path.is_file()]:
            problems.append(f"{info.path} lists {missing[0]}, which does not exist: add the file, or remove the case")
        else:
            cases.append(case)
    known = {path.resolve() for case in listed for path in (*case.images.values(), case.label)}
    for name in ("imagesTr", "labelsTr"):
        files = _list_files(root / name, info) if (root / name).is_dir() else {}
        problems += [
            f"{path} is not listed in {info.path}: add its case there, or remove the file"
            for paths in files.values()
            for path in paths
            if path.resolve() not in known
        ]
    return Cases(cases, problems, len(info.cases))


def _resolve(listed: ListedCase) -> Case:
    """Return the files of a listed case. Where the listed image does not exist, its channels may, with _0000 and so on."""
    name = listed.name or stem(listed.label.name)
    if len(listed.images) > 1 or listed.images[0].is_file():
        return Case(name, dict(enumerate(listed.images)), listed.label)
    image = listed.images[0]
    base, ending = stem(image.name), image.name[len(stem(image.name)) :]
    channels = {
        int(path.name[len(base) + 1 : -len(ending)]): path
        for path in sorted(image.parent.glob(f"{base}_[0-9][0-9][0-9][0-9]{ending}"))
    }
    return Case(name, channels or {0: image}, listed.label)


def _find_cases(images: Path, labels: Path, info: DatasetJson) -> Cases:
    """Return the cases of a folder of images and a folder of labels. Raises DataError if either is empty."""
    truths = _list_files(labels, info)
    pictured = _list_files(images, info)
    for folder, found in ((images, pictured), (labels, truths)):
        if not found:
            wanted = (
                f"{info.path.name} says file_ending {info.ending}"
                if info.ending
                else "pictures or volumes are expected"
            )
            raise DataError(f"{folder} holds {describe_contents(folder)}, but {wanted}: correct it, or add the files")
    problems = list(find_duplicates(pictured, truths))
    found_images: dict[str, dict[int, Path]] = {}
    for key, (path, *_) in pictured.items():
        match = None if key in truths else CHANNEL.fullmatch(key)
        name, number = (match["case"], int(match["number"])) if match else (key, 0)
        found_images.setdefault(name, {})[number] = path
    for name, channels in found_images.items():
        if name not in truths:
            problems.append(f"{next(iter(channels.values()))} has no labels: add {labels / name}, or remove the image")
    problems += [
        f"{paths[0]} has no image: add {images / name}_0000, or remove the labels"
        for name, paths in truths.items()
        if name not in found_images
    ]
    cases = [Case(name, own, truths[name][0]) for name, own in found_images.items() if name in truths]
    return Cases(cases, problems, len(found_images))


def _list_cases(cases: Cases, split: str | None, info: DatasetJson, config: Data) -> Listing:
    """Return the images of the cases, and a sentence for each whose channels are others than the file names."""
    parts = [Listing((), tuple(cases.problems))]
    for case in cases.usable:
        try:
            _check_channels(case, info)
            images = [path for _, path in sorted(case.images.items())]
            parts.append(Listing(_make_records(case.name, images, (case.label,), split, config)))
        except DataError as error:
            parts.append(Listing((), (str(error),)))
    return Listing.join(parts)


def _make_records(
    name: str, images: list[Path], labels: tuple[Path, ...], split: str | None, config: Data
) -> tuple[Record, ...]:
    """Return the image of a case, or its slices, of one file or of one a channel. Raises DataError."""
    image, *further = images
    make = partial(MultiFile, further=tuple(further)) if further else Record
    record = make(name, split, image, labels, name if is_volume(image) else None)
    return list_slices(record, config.axis) if is_volume(image) else (record,)


def _check_channels(case: Case, info: DatasetJson) -> None:
    """Raise DataError unless the case has a file for every channel, or one file that holds all of them."""
    wanted, first = len(info.channels), next(iter(case.images.values()))
    if wanted > 1 and len(case.images) > 1:
        if extra := sorted(case.images.keys() - set(range(wanted))):
            raise DataError(
                f"{case.images[extra[0]]} is channel {extra[0]}, but {info.path} names {wanted}, from 0 to {wanted - 1}: correct "
                "one of them"
            )
        if missing := [number for number in range(wanted) if number not in case.images]:
            raise DataError(
                f"{first.parent} has no channel {missing[0]} ({info.channels[missing[0]]}) of case {case.name}, which "
                f"{info.path} names: add the file {case.name}_{missing[0]:04d}"
            )
    counts = [_count_channels(path) for path in case.images.values()]
    if sum(counts) != wanted:
        raise DataError(
            f"{first} has {sum(counts)} channel{'s' * (sum(counts) > 1)}{' with its further files' * (len(counts) > 1)}, but "
            f"{info.path} names {wanted}: add the missing files, or correct the names of the channels"
        )


def _count_channels(path: Path) -> int:
    """Return the number of channels of a file, by its header. Raises DataError."""
    return nifti.read_header(path).channels if is_volume(path) else pictures.read_shape(path).channels


def _list_files(folder: Path, info: DatasetJson) -> Files:
    """Return the images of a folder whose names have the ending of the data set."""
    return list_files(folder, (info.ending,) if info.ending else PICTURES + VOLUMES)


def _holds_files(folder: Path, info: DatasetJson) -> bool:
    """Return whether a folder exists and holds images of the data set."""
    return folder.is_dir() and bool(_list_files(folder, info))


def _format(settings: dict[str, Any]) -> str:
    """Return settings as arguments that can be pasted into a shell."""
    return " ".join(shlex.quote(f"{key}={json.dumps(value, ensure_ascii=False)}") for key, value in settings.items())
