"""Which masks belong to which images, by their names."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from diffseg.errors import DataError

Files = dict[str, list[Path]]  # by stem, or FOLDER/STEM in sub-folders

MASK = r"masks?|segmentations?|segs?|labels?|lesions?|gt|ground[ _-]?truth|annotations?"
SUFFIX = re.compile(rf"(?P<name>.+?)(?P<affix>[ _.-](?:{MASK}))(?P<number>[ _.-]\d+)?", re.IGNORECASE)
PREFIX = re.compile(rf"(?P<affix>(?:{MASK})[ _.-])(?P<name>.+?)(?P<number>)", re.IGNORECASE)
IMAGES = (
    re.compile(r"(?P<name>.+?)(?P<affix>[ _.-](?:images?|img|0000))(?P<number>)", re.IGNORECASE),  # 0000: of nnU-Net
    re.compile(r"(?P<affix>(?:images?|img)[ _.-])(?P<name>.+?)(?P<number>)", re.IGNORECASE),
)
NUMBERED = re.compile(r"(?P<name>.+)[_-](?P<number>\d+)")


@dataclass(frozen=True)
class Paired:
    """The masks of every image, in the order of their numbers, and how their names were understood."""

    masks: dict[
        str, dict[int | str, Path]
    ]  # by image: by number, "" for one without, or name in a folder of the image's
    twins: tuple[tuple[Path, Path], ...]  # masks of one name and number
    remark: str | None


def pair(images: Files, masks: Files) -> Paired:
    """Give every image the masks of its name, with the affix that gives masks to most images: none, _mask, _gt and so on.

    A mask of image NAME is called NAME, or NAME_0, NAME_1, … where there are several, or lies in a folder NAME, or in one
    folder for each rater. Raises DataError if two affixes give masks to as many images.
    """
    plain = _paired(images, masks, str, str)
    if len(plain.masks) == len(images):
        return plain
    best: list[tuple[str, str, Paired]] = []
    for image_affix, plain_image in _readings(images, IMAGES):
        for mask_affix, plain_mask in _readings(masks, (SUFFIX, PREFIX)):
            found = _paired(images, masks, plain_image, plain_mask)
            if not best or len(found.masks) > len(best[0][2].masks):
                best = []
            if not best or len(found.masks) == len(best[0][2].masks) > 0:
                best.append((image_affix, mask_affix, found))
    image_affix, mask_affix, found = best[0]
    if image_affix == mask_affix == "" or not found.masks:
        return found
    if rival := next((affix for own, affix, _ in best[1:] if own == image_affix), None):
        first = next(iter(next(iter(found.masks.values())).values()))
        raise DataError(
            f"{first.parent} has masks with {mask_affix} and others with {rival} for the same images: move one kind elsewhere"
        )
    what = f"masks have the names of their images with {mask_affix}" if mask_affix else "masks have the names of images"
    return Paired(found.masks, found.twins, what + (f", images have {image_affix}" if image_affix else ""))


def split_by_affix(files: Files) -> tuple[Files, Files]:
    """The images and the masks of a folder that holds both: a mask's name has an affix such as _mask."""
    masks = {key for key in files if SUFFIX.fullmatch(_base(key)) or PREFIX.fullmatch(_base(key))}
    return (
        {key: paths for key, paths in files.items() if key not in masks},
        {key: paths for key, paths in files.items() if key in masks},
    )


def _readings(files: Files, patterns: Iterable[re.Pattern]) -> list[tuple[str, Callable[[str], str]]]:
    """The affixes that occur, and for each a function that takes it off a stem; first the one that takes nothing off."""
    found: dict[str, Callable[[str], str]] = {"": lambda key: key}
    for pattern in patterns:
        affixes = Counter(match["affix"].lower() for key in files if (match := pattern.fullmatch(_base(key))))
        for affix, _ in affixes.most_common():
            found.setdefault(affix, lambda key, pattern=pattern, affix=affix: _without(key, pattern, affix))
    return list(found.items())


def _without(key: str, pattern: re.Pattern, affix: str) -> str:
    """The stem without the affix, or "" if it has another one or none."""
    match = pattern.fullmatch(_base(key))
    if not match or match["affix"].lower() != affix:
        return ""
    return key.removesuffix(_base(key)) + match["name"] + (match["number"] or "")


def _paired(images: Files, masks: Files, plain_image: Callable, plain_mask: Callable) -> Paired:
    owners = {name: key for key in images if (name := plain_image(key))}
    if not any("/" in key for key in masks):  # one folder for images of several sub-folders
        bases = Counter(_base(name) for name in owners)
        owners |= {base: key for name, key in list(owners.items()) if bases[base := _base(name)] == 1}
    flat = not any("/" in key for key in images)
    found: dict[str, dict[int | str, Path]] = {}
    twins = []
    for key, (path, *_) in masks.items():
        if not (name := plain_mask(key)):
            continue
        owner, number = _owner(name, owners, flat)
        if owner is None:
            continue
        if number in (own := found.setdefault(owner, {})):
            twins.append((own[number], path))
        own[number] = path
    ordered = {key: dict(sorted(found[key].items(), key=_rank)) for key in images if key in found}
    return Paired(ordered, tuple(twins), None)


def _owner(name: str, owners: dict[str, str], flat: bool) -> tuple[str | None, int | str]:
    """The image that a mask is of, and its number."""
    if name in owners:
        return owners[name], ""
    if (match := NUMBERED.fullmatch(name)) and match["name"] in owners:
        return owners[match["name"]], int(match["number"])
    if flat and "/" in name:
        folder, base = name.rsplit("/", 1)
        if folder in owners:
            return owners[folder], base
        owner, number = _owner(base, owners, False)  # the folder is of a class, or of a rater
        return owner, folder if number == "" else f"{folder}/{number}"
    return None, ""


def _rank(item: tuple[int | str, Path]) -> tuple:
    number, _ = item
    return (isinstance(number, int), number if isinstance(number, int) else 0, str(number))


def _base(key: str) -> str:
    return key.rsplit("/", 1)[-1]
