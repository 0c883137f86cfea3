"""From the values of a mask file to the numbers that decoded masks store: 0 for background, 1 to N for labels, IGNORED.

Where no class is named, `data.foreground` or its absence decides which pixels are 1. Else a class lists its values, and a
value that nothing lists is refused: only 0 and black are background without being listed.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from diffseg.data.masks import ForegroundRule, MaskPixels, colour_name, join_values, match_any, select_foreground
from diffseg.errors import DataError
from diffseg.labels.classes import IGNORED, Classes, Value

BLACK = "#000000"
MAX_OBJECTS = 2**16 - 1  # of an image: their numbers have 16 bits
CHUNK = 2**20  # pixels counted at once: np.bincount takes 8 bytes a pixel
TABLE = 2**16  # codes below it are looked up in a table
UNLISTED, AMBIGUOUS = -1, -2  # in place of the number of a value that nothing, or too much, lists
MAX_DRAWN = 8  # unlisted values of one mask, at most, that look drawn; JPEG or resizing leaves more
LOSSY = (".jpg", ".jpeg")


def number_pixels(path: Path, labels: MaskPixels, classes: Classes, rule: ForegroundRule = ()) -> np.ndarray:
    """Return the numbers of a mask, uint8 [H, W].

    Args:
        path: Of the mask, for messages.
        labels: Its pixels.
        classes: What they may mean.
        rule: Which pixels are foreground if no class is named.

    Raises:
        DataError: The mask has a value that nothing lists.
    """
    if classes.values:
        return _number_listed(path, labels, classes)
    if not classes.ignored:
        return select_foreground(path, labels, rule).view(np.uint8)
    kept, ignored = blank_ignored(labels, classes.ignored)
    found = select_foreground(path, kept, rule).view(np.uint8)
    found[ignored] = IGNORED
    return found


def is_labelled(numbers: np.ndarray) -> np.ndarray:
    """Return which pixels of stored numbers belong to a label: neither background nor ignored."""
    labelled: np.ndarray = (numbers != 0) & (numbers != IGNORED)
    return labelled


def number_objects(path: Path, labels: MaskPixels, marked: np.ndarray) -> np.ndarray:
    """Number the objects of a mask that has another value for each: uint16 [H, W], 1 for the least value, 0 for none.

    Args:
        path: Of the mask, for messages.
        labels: Its pixels.
        marked: Which pixels belong to objects, bool [H, W].

    Raises:
        DataError: There are too many objects.
    """
    values, found = np.unique(_encode(labels)[marked], return_inverse=True)
    if len(values) > MAX_OBJECTS:
        raise DataError(f"{path} has {len(values):,} objects: at most {MAX_OBJECTS:,} are possible, so cut the image")
    numbers = np.zeros(marked.shape, np.uint16)
    numbers[marked] = found.reshape(-1) + 1
    return numbers


def count_numbers(masks: np.ndarray, classes: Classes) -> np.ndarray:
    """Return how many pixels of decoded masks, uint8 of any shape, have each number, int64 [256]."""
    counts, flat = np.zeros(256, np.int64), masks.reshape(-1)
    if not classes.values and not classes.ignored:  # 0 and 1 alone
        counts[1] = np.count_nonzero(flat.view(bool))
        counts[0] = flat.size - counts[1]
        return counts
    for start in range(0, flat.size, CHUNK):
        counts += np.bincount(flat[start : start + CHUNK], minlength=256)
    return counts


def blank_ignored(labels: MaskPixels, ignored: tuple[Value, ...]) -> tuple[MaskPixels, np.ndarray]:
    """Return a mask with 0, or black, at its ignored pixels, and where these are, bool [H, W].

    What is left of colours becomes gray if it is gray everywhere.
    """
    found = match_any(labels, ignored)
    pixels = labels.pixels.copy()
    pixels[found] = 0
    if labels.coloured and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    return MaskPixels(pixels, labels.palette), found


def find_unlisted(path: Path, labels: MaskPixels, classes: Classes) -> str | None:
    """Return the sentence for a mask with values that no class lists, or that several do; None if all are listed once."""
    codes = _encode(labels)
    found = _look_up(codes, _list_codes(labels, classes))
    for state, describe in ((UNLISTED, _describe_unlisted), (AMBIGUOUS, _describe_ambiguous)):
        if (wrong := codes[found == state]).size:
            return describe(path, [_name_value(code, labels) for code in np.unique(wrong).tolist()])
    return None


def _number_listed(path: Path, labels: MaskPixels, classes: Classes) -> np.ndarray:
    """Return the numbers of a mask by the values of its classes, uint8 [H, W]. Raises DataError for an unlisted value."""
    found = _look_up(_encode(labels), _list_codes(labels, classes))
    if found.min() < 0:
        raise DataError(find_unlisted(path, labels, classes) or "")
    return found.astype(np.uint8)


def _encode(labels: MaskPixels) -> np.ndarray:
    """Return a whole number for each pixel, [H, W]: its value, or its colour as 0xrrggbb."""
    if not labels.coloured:
        return labels.pixels
    red, green, blue = np.moveaxis(labels.pixels.astype(np.int32), -1, 0)
    codes: np.ndarray = red << 16 | green << 8 | blue
    return codes


def _look_up(codes: np.ndarray, known: Mapping[int, int]) -> np.ndarray:
    """Return the number of every code, int16 [H, W], UNLISTED where it is not known."""
    found: np.ndarray
    if codes.min() >= 0 and (top := int(codes.max())) < TABLE:
        table = np.full(top + 1, UNLISTED, np.int16)
        for code, number in known.items():
            if code <= top:
                table[code] = number
        found = table[codes]
        return found
    listed = np.array(sorted(known), np.int64)
    numbers = np.array([known[code] for code in listed.tolist()], np.int16)
    place = np.searchsorted(listed, codes).clip(max=len(listed) - 1)
    found = np.where(listed[place] == codes, numbers[place], np.int16(UNLISTED))
    return found


def _list_codes(labels: MaskPixels, classes: Classes) -> dict[int, int]:
    """Return the number of every code of a mask's pixels that is listed.

    A class may list a pixel's number, or the colour that a viewer shows: that of its palette's entry, or its gray.
    """
    numbers = _number_values(classes)
    if labels.coloured:
        return {0: 0} | {int(value[1:], 16): number for value, number in numbers.items() if isinstance(value, str)}
    known = {value: number for value, number in numbers.items() if isinstance(value, int)}
    palette = np.repeat(np.arange(256)[:, None], 3, 1) if labels.palette is None else labels.palette
    colours = any(isinstance(value, str) for value in numbers)
    for code in range(256) if colours else ():
        colour = colour_name(palette[min(code, len(palette) - 1)])
        if colour in numbers and known.setdefault(code, numbers[colour]) != numbers[colour]:
            known[code] = AMBIGUOUS
    return known


def _number_values(classes: Classes) -> dict[Value, int]:
    """Return the number of every value: of labels, ignored pixels and background.

    0 is background where a number is listed, black where a colour is: a palette may show its entry 0 in any colour.
    """
    named = [value for values in (*classes.values, classes.background) for value in values]
    found: dict[Value, int] = {value: number for number, own in enumerate(classes.values, 1) for value in own}
    found |= dict.fromkeys(classes.ignored, IGNORED) | dict.fromkeys(classes.background, 0)
    if any(isinstance(value, int) for value in named):
        found.setdefault(0, 0)
    if any(isinstance(value, str) for value in named):
        found.setdefault(BLACK, 0)
    return found


def _name_value(code: int, labels: MaskPixels) -> str:
    """Return a value as a user writes it, with the colour of a palette's entry."""
    if labels.coloured:
        return f"#{code:06x}"
    if labels.palette is None:
        return str(code)
    return f"{code} ({colour_name(labels.palette[min(code, len(labels.palette) - 1)])})"


def _describe_unlisted(path: Path, values: list[str]) -> str:
    """Return the sentence for values that no class lists."""
    if len(values) > MAX_DRAWN or path.suffix.lower() in LOSSY:
        return (
            f"{path} has {len(values)} value{'s' * (len(values) > 1)} that no class of data.classes lists, such as "
            f"{join_values(values, 3)}, as JPEG or resizing leaves them: save the masks again as PNG, with one value a class"
        )
    several = len(values) > 1
    return (
        f"{path} has the value{'s' * several} {join_values(values, MAX_DRAWN)}, which no class of data.classes lists: add "
        f'{"them" if several else "it"} there to a class or to "background", or to data.ignore'
    )


def _describe_ambiguous(path: Path, values: list[str]) -> str:
    """Return the sentence for values that one class lists by number and another by colour."""
    return (
        f"{path} has the value {values[0]}, which is listed in data.classes, data.ignore or both by its number and by its "
        "colour, with different meanings: list either numbers or colours"
    )
