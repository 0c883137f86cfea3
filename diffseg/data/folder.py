"""The layout `folder`: images and masks of matching names, pictures or NIfTI volumes, of one or several raters."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from diffseg.config import Data
from diffseg.data.files import is_volume, normalise_name
from diffseg.data.groups import assign_groups
from diffseg.data.listing import Listing, find_duplicates
from diffseg.data.pairing import Pairing, pair_masks
from diffseg.data.records import Record
from diffseg.data.slices import list_slices
from diffseg.data.split_files import SplitFiles, find_split_files, find_split_folders
from diffseg.data.split_table import apply_table
from diffseg.errors import DataError

Numbers = tuple[int | str, ...]  # of an image's masks in one folder: "" for a single one without a number


def find(root: Path, config: Data) -> Listing:
    """Find the images and masks below the root.

    * Splits: `train/` and `test/` (and `val/`, which is trained on), each with `images/` and `masks/`, or below `images/`;
      the masks of all splits may lie in one folder. Without these folders, `split.csv` gives the split of each image, with
      the columns name, split (train, val or test) and group, the last two optional. What it leaves open is to be drawn.
    * Masks: named as their images, all with the same affix (`_mask`, …) or none; with _0, _1, … (or _r1, _rater1, …)
      appended where an image has several; in folders masks_0/, masks_1/, … of raters; or, of objects, in a folder for each image.
    * Groups: those of `split.csv`; else sub-folders, unless they look like classes; else volumes. Every slice of a NIfTI
      volume is an image.

    Raises DataError if there are no images or no masks.
    """
    places = [find_split_files(root, folder, split, config) for split, folder in find_split_folders(root)]
    found = assign_groups(Listing.join(_build_records(place, config) for place in places))
    return apply_table(root, found, split_by_folders=places[0].split is not None)


def _build_records(place: SplitFiles, config: Data) -> Listing:
    """Return the images of a split that have their masks, and problems for all others."""
    raters = [pair_masks(place.images, masks) for masks in place.masks]
    problems = [*place.problems, *find_duplicates(place.images, *place.masks)]
    problems += [
        f"{first} and {other.name} have one name and number: leave only one of them"
        for rater in raters
        for first, other in rater.duplicates
    ]
    objects = config.objects
    if objects is None and len(raters) == 1:
        objects = place.nested or _lie_in_own_folders(raters[0])
    usual = None if objects else _usual_numbers(raters[0])
    parts = []
    for name, (image, *_) in place.images.items():
        found = [rater.masks.get(name, {}) for rater in raters]
        masks = tuple(path for own in found for path in own.values())
        if problem := _find_problem(image, [tuple(own) for own in found], usual, bool(objects)):
            problems.append(problem)
        else:
            record = Record(name, place.split, image, masks, united=bool(objects))
            parts.append(_expand_volume(record, config.axis) if is_volume(image) else Listing((record,)))
    remarks = [*place.remarks, *(f"{place.folder}: {rater.remark}" for rater in raters if rater.remark)]
    return Listing.join([*parts, Listing((), tuple(problems), tuple(remarks))])


def _usual_numbers(pairing: Pairing) -> Numbers | None:
    """Return the numbers that the masks of most images have; None if no image has several masks."""
    numbers = Counter(tuple(own) for own in pairing.masks.values())
    if not any(len(own) > 1 for own in numbers):
        return None
    return max(numbers, key=lambda own: (numbers[own], len(own)))


def _lie_in_own_folders(pairing: Pairing) -> bool:
    """Return whether the masks of each image lie in a folder of its name, as those of objects do."""
    return any(pairing.masks.values()) and all(
        normalise_name(path.parent.name) == key.rsplit("/", 1)[-1]
        for key, own in pairing.masks.items()
        for path in own.values()
    )


def _find_problem(image: Path, found: Sequence[Numbers], usual: Numbers | None, objects: bool) -> str | None:
    """Return why the image cannot be used with these masks.

    Args:
        image: The image's file.
        found: The masks' numbers in each folder of a rater.
        usual: Those of most images; None if these have a single one.
        objects: The masks are objects, of which there may be any number.
    """
    if not any(found):
        return f"{image} has no mask: add it, or remove the image"
    if objects:
        return None
    if not all(found):
        return f"{image} has masks in {sum(map(bool, found))} of {len(found)} folders of raters: add the others"
    if usual is None or found[0] == usual:
        return None
    names = [" and ".join(str(one) for one in numbers if one != "") or "not numbered" for numbers in (found[0], usual)]
    return (
        f"{image} has {len(found[0])} rater{'s' * (len(found[0]) != 1)} ({names[0]}), but most images have {len(usual)} "
        f"({names[1]}): add the missing masks, or set data.objects=true if each file is an object"
    )


def _expand_volume(record: Record, axis: int | None) -> Listing:
    """Return the slices of a volume as images, or why it has none."""
    try:
        return Listing(list_slices(record, axis))
    except DataError as error:
        return Listing((), (str(error),))
