"""A folder of one's own: images and masks of matching names, pictures or NIfTI volumes, of one or several raters."""

import dataclasses
from collections import Counter
from pathlib import Path

from diffseg.config import Data
from diffseg.data.files import is_volume
from diffseg.data.groups import patients
from diffseg.data.listing import Listing, find_duplicates
from diffseg.data.pairing import pair
from diffseg.data.places import Place, splits
from diffseg.data.records import Record
from diffseg.data.slices import list_slices
from diffseg.data.table import TABLE, read_table
from diffseg.errors import DataError


def find(root: Path, config: Data) -> Listing:
    """`train/` and `test/` (and `val/`, which is trained on), each with `images/` and `masks/`; or these two at the root.

    The splits may also be sub-folders of `images/`, and the masks of all splits may lie in one folder. Without splits,
    `split.csv` tells them, with the columns name, split (train, val or test) and group, the last two optional; what it
    leaves open is to be drawn; its groups count in any case. Masks have the names of their images, all with the same affix
    (`_mask`, …) or none, with _0, _1, … appended where an image has several, or lie in folders masks_0/, masks_1/, … of
    raters. Sub-folders are groups, unless they look like classes. Every slice of a NIfTI volume is an image; a volume is a
    group.
    """
    places = [Place.of(root, folder, split, config) for split, folder in splits(root)]
    found = patients(Listing.join(_pairs(place, config) for place in places))
    return _listed(root, found, places[0].split is not None) if (root / TABLE).is_file() else found


def _listed(root: Path, found: Listing, given: bool) -> Listing:
    """With the groups of split.csv, and its splits where these are not given by folders."""
    rows, problems, remarks = read_table(root / TABLE, {record.image: record.shared_name for record in found.records})
    records = []
    for record in found.records:
        row = rows.get(record.image, {"split": "", "group": ""})
        if given and row["split"] not in ("", record.split):
            problems += (
                f"{root / TABLE} puts {record.name} into {row['split']}, but its folder is {record.split}: mend the line",
            )
        split = record.split if given else row["split"] or None
        records.append(dataclasses.replace(record, split=split, group=row["group"] or record.group))
    return Listing(tuple(records), found.problems + problems, found.remarks + remarks)


def _pairs(place: Place, config: Data) -> Listing:
    """Records of the images with their masks; problems for images without, or with fewer than the others."""
    paired = [pair(place.images, masks) for masks in place.masks]
    problems = list(find_duplicates(place.images, *place.masks))
    problems += [
        f"{first} and {other.name} have one name and number: leave only one of them"
        for one in paired
        for first, other in one.twins
    ]
    numbers = Counter(tuple(own) for own in paired[0].masks.values())
    usual = max(numbers, key=lambda own: (numbers[own], len(own)), default=())
    several = any(len(own) > 1 for own in numbers)
    records = []
    for name, (image, *_) in place.images.items():
        found = [one.masks.get(name, {}) for one in paired]
        masks = tuple(path for own in found for path in own.values())
        if not masks:
            problems.append(f"{image} has no mask: add it, or remove the image")
        elif config.objects:
            records.append(Record(name, place.split, image, masks, united=True))
        elif not all(found):
            problems.append(
                f"{image} has masks in {sum(map(bool, found))} of {len(found)} folders of raters: add the others"
            )
        elif several and tuple(found[0]) != usual:
            problems.append(_unlike(image, tuple(found[0]), usual))
        else:
            records.append(Record(name, place.split, image, masks))
    parts = [_slices(record, config.axis) if is_volume(record.image) else Listing((record,)) for record in records]
    remarks = [*place.remarks, *(f"{place.folder}: {one.remark}" for one in paired if one.remark)]
    return Listing.join([*parts, Listing((), tuple(problems), tuple(remarks))])


def _unlike(image: Path, own: tuple, usual: tuple) -> str:
    names = [" and ".join(str(number) for number in numbers if number != "") for numbers in (own, usual)]
    return (
        f"{image} has {len(own)} rater{'s' * (len(own) != 1)} ({names[0] or 'not numbered'}), but most images have {len(usual)} "
        f"({names[1] or 'not numbered'}): add the missing masks, or set data.objects=true if each file is an object"
    )


def _slices(record: Record, axis: int | None) -> Listing:
    """The slices of a volume as images, or why it has none."""
    try:
        return Listing(list_slices(record, axis))
    except DataError as error:
        return Listing((), (str(error),))
