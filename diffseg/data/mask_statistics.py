"""The values of all masks of a data set together, and how they encode the foreground.

A single file cannot tell: a label map of one object holds 0 and 1, as a binary mask does. The thresholds were measured on
masks of ISIC16, tumour clusters and LIDC-IDRI that were made label maps or JPEGs (quality 10 to 95), resized or blurred.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from diffseg.data.mask_histogram import MaskHistogram
from diffseg.data.masks import HALF, colour_name

# Values between 0 and 255 fill regions, as classes do, or line contours, as JPEG and resizing leave them.
REGION = 0.3  # share of a value's pixels that are interior: 0.8 and more in regions, at most 0.2 along contours
MAX_DRAWN = 8  # values along contours of masks that are drawn by hand, at most: those of thin objects
MIN_BLURRED = 0.01  # share along contours of the pixels between 0 and 255, from which on JPEG or resizing left them
MAX_IN_REGIONS = 0.35  # share in regions of the pixels between 0 and 255, above which there are levels
MIN_LEVEL = 0.05  # share of one value among the pixels between 0 and 255, above which it is a level
MIDDLE = (32, 224)  # the range of values that are near neither 0 nor 255
MAX_WIDTH = 3.5  # pixels in MIDDLE a pixel of the contour: JPEG 1.3, enlarged fourfold 3.0; blurred by 2 px 3.9
MAX_MIDDLE = 0.4  # share of all pixels in MIDDLE, above which they are not those of contours
MAX_CLASSES = 5  # colours, at most, of one hue and black that are classes; JPEG or resizing leaves more
SAME_HUE = 0.1  # deviation of colours of one hue from their mean, each divided by its brightest channel
BLACK = "#000000"

Encoding = Literal["binary", "levels", "blurred-levels", "blurred-binary", "soft"]


@dataclass(frozen=True)
class MaskStatistics:
    """The masks of a data set, and how many pixels and masks have each value."""

    masks: tuple[MaskHistogram, ...]

    @cached_property
    def numbers(self) -> Counter[int]:
        """The number of pixels of each value; nothing if any mask has colours."""
        return Counter({value: count for value, count in self.pixels.items() if isinstance(value, int)})

    @cached_property
    def pixels(self) -> Counter[int | str]:
        """The number of pixels of each value: of a number, or of "#rrggbb" for all masks if any has colours."""
        found: Counter[int | str] = Counter()
        for mask in self.masks:
            for value, count in zip(self._list_values(mask), mask.counts.tolist(), strict=True):
                found[value] += count
        return found

    @cached_property
    def files(self) -> Counter[int | str]:
        """The number of masks that have each value."""
        return Counter(value for mask in self.masks for value in self._list_values(mask))

    @property
    def folder(self) -> Path:
        """The folder of the first mask."""
        return self.masks[0].path.parent

    @cached_property
    def coloured(self) -> bool:
        """Whether any mask has colours."""
        return any(mask.values.coloured for mask in self.masks)

    @property
    def total(self) -> int:
        """The number of pixels of all masks."""
        return self.pixels.total()

    @property
    def top(self) -> int:
        """The greatest number, or 255 if that is greater."""
        return max(255, max(self.numbers))

    def share(self, condition: Callable[[int], bool]) -> float:
        """Return the share of all pixels whose number meets the condition."""
        return sum(count for value, count in self.numbers.items() if condition(value)) / self.total

    def describe_values(self) -> str:
        """Return the values with their shares of the pixels and of the masks, the largest first."""
        known = self.pixels.most_common()
        texts = [
            f"{value} ({count / self.total:.2%} of the pixels, in {self.files[value]} of {len(self.masks)} masks)"
            for value, count in known[:6]
        ]
        return ", ".join(texts) + (f" and {len(known) - 6} more values" if known[6:] else "")

    @cached_property
    def encoding(self) -> Encoding:
        """What the numbers are, if the masks have no colours.

        "binary": 0 and 255, or 0 and 1. "levels": one value in each region. "blurred-levels": levels, and other values along
        contours. "blurred-binary": near 0 and 255, and other values along contours. "soft": any values anywhere.
        """
        if all(mask.binary for mask in self.masks):
            return "binary"
        between = self._between.total()
        along = {value: count for value, count in self._between.items() if self._interior[value] < REGION * count}
        if len(along) <= MAX_DRAWN or sum(along.values()) < MIN_BLURRED * between:
            return "levels"
        if between - sum(along.values()) > MAX_IN_REGIONS * between or max(self.numbers) < HALF:
            return "blurred-levels"
        low, high = MIDDLE
        middle = sum(count for value, count in self.numbers.items() if low <= value < high)
        narrow = max(self.numbers) <= 255 and middle <= MAX_WIDTH * sum(mask.contour for mask in self.masks)
        return "blurred-binary" if narrow and middle <= MAX_MIDDLE * self.total else "soft"

    @cached_property
    def threshold(self) -> int:
        """The threshold of masks with values along contours: half of the lowest level, or of the greatest value."""
        top = max(self.numbers)
        if self.encoding != "blurred-levels":
            return HALF if MIDDLE[1] <= top <= 255 else max(1, (top + 1) // 2)
        enough = MIN_LEVEL * self._between.total()
        levels = [value for value, count in self._between.items() if count > enough]
        return max(1, (min(levels or [top]) + 1) // 2)

    @cached_property
    def blurred_hue(self) -> bool:
        """Whether the colours are many, of one hue, on black: a mask of one colour after JPEG or resizing."""
        if not self.coloured or len(self.pixels) <= MAX_CLASSES or not self.pixels[BLACK]:
            return False
        colours = np.array([[int(str(name)[k : k + 2], 16) for k in (1, 3, 5)] for name in self.pixels], float)
        counts = np.array(list(self.pixels.values()), float)
        bright = colours.max(1) >= HALF
        if not bright.any():
            return False
        hues, weights = colours[bright] / colours[bright].max(1, keepdims=True), counts[bright] / counts[bright].sum()
        mean = weights @ hues
        return bool((weights @ (hues - mean) ** 2 < SAME_HUE**2).all())

    def _list_values(self, mask: MaskHistogram) -> list[int | str]:
        """Return the mask's values: numbers, or colours if any mask has colours."""
        if self.coloured:
            return [colour_name(rgb) for rgb in mask.values.to_rgb()[0]]
        numbers: list[int | str] = mask.values.pixels[0].tolist()
        return numbers

    @cached_property
    def _between(self) -> Counter[int]:
        """The number of pixels of each value above 0 and below `top`."""
        return Counter({value: count for value, count in self.numbers.items() if 0 < value < self.top})

    @cached_property
    def _interior(self) -> Counter[int]:
        """The number of pixels of each value that equal their neighbours, without those of binary masks."""
        found: Counter[int] = Counter()
        for mask in self.masks:
            if mask.interior is not None:
                for value, count in zip(mask.values.pixels[0].tolist(), mask.interior.tolist(), strict=True):
                    found[value] += count
        return found
