"""Pair masks with images by their names."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from diffseg.data.listing import Files
from diffseg.errors import DataError

Reading = Callable[[str], str]  # takes a key to the name that image and mask share; to "" if it is read otherwise

MASK = r"masks?|segmentations?|segs?|labels?|lesions?|gt|ground[ _-]?truth|annotations?"
NUMBER = r"(?:r|rater)?\d+"  # of a mask of several
SUFFIX = re.compile(rf"(?P<name>.+?)(?P<affix>[ _.-](?:{MASK}))(?P<number>[ _.-]{NUMBER})?", re.IGNORECASE)
PREFIX = re.compile(rf"(?P<affix>(?:{MASK})[ _.-])(?P<name>.+?)(?P<number>)", re.IGNORECASE)
IMAGES = (
    re.compile(r"(?P<name>.+?)(?P<affix>[ _.-](?:images?|img|0000))(?P<number>)", re.IGNORECASE),  # 0000: nnU-Net's
    re.compile(r"(?P<affix>(?:images?|img)[ _.-])(?P<name>.+?)(?P<number>)", re.IGNORECASE),
)
NUMBERED = re.compile(r"(?P<name>.+)[_-](?:r|rater)?(?P<number>\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Pairing:
    """The masks of every image, and how their names were understood."""

    masks: dict[
        str, dict[int | str, Path]
    ]  # by the image's key; there by number, by a folder's name, or by "", in order
    duplicates: tuple[tuple[Path, Path], ...]  # masks of one image and number
    remark: str | None = None


def pair_masks(images: Files, masks: Files) -> Pairing:
    """Give every image the masks of its name.

    A mask of image NAME is called NAME, or NAME_0, NAME_1, … (NAME_r1, NAME_rater1, …) where there are several, or lies in a
    folder NAME, or in one folder for each rater. Names may have affixes, such as _mask or _gt: those are read that give masks
    to most images.

    Raises DataError if two affixes give masks to equally many images.
    """
    plain = _pair(images, masks, str, str)
    if len(plain.masks) == len(images):
        return plain
    best: list[tuple[str, str, Pairing]] = []
    for image_affix, read_image in _list_readings(images, IMAGES):
        for mask_affix, read_mask in _list_readings(masks, (SUFFIX, PREFIX)):
            found = _pair(images, masks, read_image, read_mask)
            if not best or len(found.masks) > len(best[0][2].masks):
                best = [(image_affix, mask_affix, found)]
            elif len(found.masks) == len(best[0][2].masks) > 0:
                best.append((image_affix, mask_affix, found))
    image_affix, mask_affix, found = best[0]
    if image_affix == mask_affix == "" or not found.masks:
        return found
    if rival := next((affix for own, affix, _ in best[1:] if own == image_affix), None):
        first = next(iter(next(iter(found.masks.values())).values()))
        raise DataError(
            f"{first.parent} has masks with {mask_affix} and others with {rival} for the same images: move one kind "
            "elsewhere, or give them as raters in folders masks_0/ and masks_1/"
        )
    remark = (
        f"masks have the names of their images with {mask_affix}" if mask_affix else "masks have the names of images"
    )
    remark += f", images have {image_affix}" if image_affix else ""
    share = f"all {len(images)}" if len(found.masks) == len(images) else f"{len(found.masks)} of {len(images)}"
    return replace(found, remark=f"{remark}, which gives masks to {share} images")


def split_by_affix(files: Files) -> tuple[Files, Files]:
    """Return the images and the masks of a folder that holds both: a mask's name has an affix such as _mask."""
    masks = {key for key in files if SUFFIX.fullmatch(_base(key)) or PREFIX.fullmatch(_base(key))}
    return (
        {key: paths for key, paths in files.items() if key not in masks},
        {key: paths for key, paths in files.items() if key in masks},
    )


def _list_readings(files: Files, patterns: Iterable[re.Pattern[str]]) -> list[tuple[str, Reading]]:
    """Return the affixes that occur, each with the function that removes it; first of all "", which removes nothing."""
    found: dict[str, Reading] = {"": lambda key: key}
    for pattern in patterns:
        affixes = Counter(match["affix"].lower() for key in files if (match := pattern.fullmatch(_base(key))))
        for affix, _ in affixes.most_common():
            found.setdefault(affix, partial(_remove_affix, pattern, affix))
    return list(found.items())


def _remove_affix(pattern: re.Pattern[str], affix: str, key: str) -> str:
    """Return the key without the affix, or "" if it has another one or none."""
    match = pattern.fullmatch(_base(key))
    if not match or match["affix"].lower() != affix:
        return ""
    return key.removesuffix(_base(key)) + match["name"] + (match["number"] or "")


def _pair(images: Files, masks: Files, read_image: Reading, read_mask: Reading) -> Pairing:
    """Pair images and masks whose keys are read as the same name."""
    owners = {name: key for key in images if (name := read_image(key))}
    if not any("/" in key for key in masks):  # one folder of masks for images in several sub-folders
        bases = Counter(_base(name) for name in owners)
        owners |= {base: key for name, key in list(owners.items()) if bases[base := _base(name)] == 1}
    flat = not any("/" in key for key in images)
    found: dict[str, dict[int | str, Path]] = {}
    duplicates = []
    for key, (path, *_) in masks.items():
        owner, number = _find_image(name, owners, flat) if (name := read_mask(key)) else (None, "")
        if owner is None:
            continue
        if number in (own := found.setdefault(owner, {})):
            duplicates.append((own[number], path))
        own[number] = path
    return Pairing({key: _sort(found[key]) for key in images if key in found}, tuple(duplicates))


def _find_image(name: str, images: dict[str, str], flat: bool) -> tuple[str | None, int | str]:
    """Return the key of the image that a mask belongs to, None if there is none; and the mask's number, or "".

    Args:
        name: The mask's, as it was read.
        images: Their keys by the names that they were read as.
        flat: No image is in a sub-folder, so that sub-folders of masks are those of images, of classes, or of raters.
    """
    if name in images:
        return images[name], ""
    if (match := NUMBERED.fullmatch(name)) and match["name"] in images:
        return images[match["name"]], int(match["number"])
    if flat and "/" in name:
        folder, base = name.rsplit("/", 1)
        if folder in images:
            return images[folder], base
        owner, number = _find_image(base, images, False)  # the folder is that of a class, or of a rater
        return owner, folder if number == "" else f"{folder}/{number}"
    return None, ""


def _sort(masks: dict[int | str, Path]) -> dict[int | str, Path]:
    """Return the masks by names, then by numbers."""
    return dict(sorted(masks.items(), key=lambda item: _sort_key(item[0])))


def _sort_key(number: int | str) -> tuple[bool, int, str]:
    """Return the key that sorts names before numbers, and numbers by value."""
    return isinstance(number, int), number if isinstance(number, int) else 0, str(number)


def _base(key: str) -> str:
    """Return the key without its folders."""
    return key.rsplit("/", 1)[-1]
