"""Which pixels of a mask are foreground: the meaning of `data.foreground`."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ImageColor

from diffseg.errors import DataError

HALF = 128  # the threshold of masks whose values lie near 0 and 255
ForegroundRule = (
    tuple[int | str, ...] | str
)  # values and colours, "nonzero" or ">=N"; () where masks hold 0 and 255 (or 1)


@dataclass(frozen=True)
class MaskPixels:
    """The pixels of a mask as its file holds them."""

    pixels: np.ndarray  # integers [H, W]: grays, palette entries or labels; or uint8 [H, W, 3]: colours
    palette: np.ndarray | None = None  # uint8 [K, 3]: the colours of the palette's entries

    @property
    def coloured(self) -> bool:
        """Whether the pixels are colours."""
        return self.pixels.ndim == 3

    def to_gray(self) -> np.ndarray:
        """Return one number a pixel, [H, W]: the pixel itself, or the brightest channel of a colour."""
        if not self.coloured:
            return self.pixels
        brightest: np.ndarray = self.pixels.max(-1)
        return brightest

    def to_rgb(self) -> np.ndarray:
        """Return the colours that a viewer shows, [H, W, 3]."""
        if self.coloured:
            return self.pixels
        if self.palette is None:
            return np.repeat(self.pixels[..., None], 3, -1)
        colours: np.ndarray = self.palette[self.pixels.clip(max=len(self.palette) - 1)]
        return colours


def select_foreground(path: Path, labels: MaskPixels, rule: ForegroundRule) -> np.ndarray:
    """Return the foreground of a mask, bool [H, W].

    Without a rule, 0 is background and 255 or 1 is foreground. Raises DataError if the mask then holds other values.
    """
    if rule == "nonzero":
        return labels.to_gray() > 0
    if isinstance(rule, str):
        return labels.to_gray() >= int(rule.removeprefix(">="))
    if rule:
        return match_any(labels, rule)
    if labels.coloured or not is_binary(np.unique(labels.pixels)):
        values = list_values(labels)
        raise DataError(
            f"{path} has the values {join_values(values)}: a mask holds 0 for background and 255 or 1 for foreground; "
            f"if it holds others, name those of the foreground, such as {format_argument(tuple(values[-1:]))}"
        )
    return labels.pixels > 0


def format_argument(rule: ForegroundRule) -> str:
    """Return the rule as an argument that can be pasted into a shell."""
    return shlex.quote(f"data.foreground={json.dumps(rule)}")


def is_binary(values: np.ndarray) -> bool:
    """Return whether the distinct values of a mask are among 0 and 255, or among 0 and 1. values: ascending."""
    return set(values[:3].tolist()) <= {0, 255} or set(values[:3].tolist()) <= {0, 1}


def list_values(labels: MaskPixels) -> list[int | str]:
    """Return the distinct values as a user writes them, ascending: numbers, or colours "#rrggbb"."""
    if labels.coloured:
        return [colour_name(colour) for colour in np.unique(labels.pixels.reshape(-1, 3), axis=0)]
    numbers: list[int | str] = np.unique(labels.pixels).tolist()
    return numbers


def colour_name(colour: np.ndarray) -> str:
    """Return a colour, uint8 [3], as "#rrggbb"."""
    return "#" + bytes(colour.tolist()).hex()


def join_values(values: Sequence[int | str], limit: int = 6) -> str:
    """Return the first values, separated by commas, and "…" if there are more."""
    return ", ".join(map(str, values[:limit])) + (", …" if len(values) > limit else "")


def match_any(labels: MaskPixels, rule: tuple[int | str, ...]) -> np.ndarray:
    """Return which pixels have one of the numbers or colours, bool [H, W]."""
    found = np.zeros(labels.pixels.shape[:2], bool)
    if not labels.coloured:
        found |= np.isin(labels.pixels, [value for value in rule if isinstance(value, int)])
    if colours := [ImageColor.getrgb(value) for value in rule if isinstance(value, str)]:
        pixels = labels.to_rgb()
        for colour in colours:
            found |= (pixels == colour).all(-1)
    return found
