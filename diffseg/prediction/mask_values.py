"""The values of written masks: those of the classes in the training masks, as numbers, entries of a palette or colours."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageColor

from diffseg.config import Data
from diffseg.errors import UserError
from diffseg.labels.classes import Classes, Value
from diffseg.prediction.mask_format import MaskFormat

Pixels = np.ndarray[Any, np.dtype[Any]]
VOLUME_TYPES = (np.uint8, np.int16, np.int32)  # of masks in NIfTI files, which readers know best


def merge_classes(masks: torch.Tensor, classes: Classes) -> torch.Tensor:
    """Return the number of a label for each pixel, uint8 [H, W], given the masks of the classes, bool [K, H, W].

    A pixel gets the label that belongs to the classes which contain it. Regions may overlap as no label does. There they are
    painted, from the largest to the smallest, with the label of the region that fewest others contain.
    """
    numbers = torch.zeros(masks.shape[1:], dtype=torch.uint8, device=masks.device)
    if classes.exclusive:
        for mask, (number, *_) in zip(masks, classes.numbers, strict=True):
            numbers[mask] = number
        return numbers
    shared = [sum(number in own for own in classes.numbers) for number in range(len(classes.values) + 1)]
    for k in sorted(range(classes.count), key=lambda k: -len(classes.numbers[k])):
        numbers[masks[k]] = min(classes.numbers[k], key=lambda number: shared[number])
    for number in range(1, len(classes.values) + 1):
        members = torch.tensor([number in own for own in classes.numbers], device=masks.device)
        numbers[(masks == members[:, None, None]).all(0)] = number
    return numbers


@dataclass(frozen=True)
class MaskValues:
    """The values by which masks are written. Masks of unnamed classes hold 0 and 255, in volumes 0 and 1."""

    classes: Classes
    form: MaskFormat

    @classmethod
    def of(cls, data: Data, form: MaskFormat) -> "MaskValues":
        """Return the values of a trial's masks."""
        return cls(Classes.of(data), form)

    def draw(self, numbers: Pixels) -> Image.Image:
        """Return a mask, given as the numbers of labels [H, W], as a picture. Raises UserError if no picture can hold it."""
        table, palette = self._picture
        picture = Image.fromarray(table[numbers])
        if palette:
            picture.putpalette([channel for colour in palette for channel in colour])
        return picture

    @cached_property
    def volume(self) -> Pixels:
        """The values [N + 1] in a volume, by the number of a label. Raises UserError for colours."""
        if not self.classes.values:
            return np.array([0, 1], np.uint8)
        found = self._choose(_gray)
        if found is None:
            raise UserError("the classes of the training masks have colours, which volumes cannot hold: give pictures")
        return np.array(found, next(kind for kind in VOLUME_TYPES if max(found) <= np.iinfo(kind).max))

    @cached_property
    def _picture(self) -> tuple[Pixels, tuple[tuple[int, int, int], ...] | None]:
        """The values in a picture by the number of a label, [N + 1] or colours [N + 1, 3], and its palette."""
        if not self.classes.values:
            return np.array([0, 255], np.uint8), None
        if self.form.palette and (entries := self._choose(self._entry)):
            return np.array(entries, np.uint8), self.form.palette
        if grays := self._choose(_gray):
            if max(grays) > np.iinfo(np.uint16).max:
                raise UserError(
                    f"the classes have values up to {max(grays)}, and pictures hold at most 65535: give volumes"
                )
            return np.array(grays, np.uint8 if max(grays) < 256 else np.uint16), None
        if colours := self._choose(self._colour):
            return np.array(colours, np.uint8), None
        raise UserError(
            "the classes have both colours and numbers above 255, and no picture holds both: name them in one of these ways"
        )

    def _choose(self, write: Callable[[Value], Any]) -> list[Any] | None:
        """Return the first value of each label that can be written so, after the background's; None if one has none."""
        chosen = []
        for own in ((self.form.background,), *self.classes.values):
            written = [one for value in own if (one := write(value)) is not None]
            if not written:
                return None
            chosen.append(written[0])
        return chosen

    def _entry(self, value: Value) -> int | None:
        """Return a value as an entry of the palette; None if it is none."""
        palette = self.form.palette or ()
        if isinstance(value, int):
            return value if value < len(palette) else None
        colour = ImageColor.getrgb(value)
        return palette.index(colour[:3]) if colour[:3] in palette else None

    def _colour(self, value: Value) -> tuple[int, ...] | None:
        """Return a value as a colour; numbers are shown as the palette or as grays, None above 255."""
        if isinstance(value, str):
            return ImageColor.getrgb(value)[:3]
        if self._entry(value) is not None:
            return (self.form.palette or ())[value]
        return (value,) * 3 if value < 256 else None


def _gray(value: Value) -> int | None:
    """Return a number, or the number of a gray; None for other colours."""
    if isinstance(value, int):
        return value
    red, green, blue = ImageColor.getrgb(value)[:3]
    return red if red == green == blue else None
