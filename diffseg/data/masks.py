"""Which pixels of a mask are foreground: the meaning of `data.foreground`."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ImageColor

from diffseg.errors import DataError

HALF = 128  # where masks are cut whose values are near 0 and 255
Rule = tuple[int | str, ...] | str  # values and colours, "nonzero" or ">=N"; () where masks hold 0 and 255 (or 1)


@dataclass(frozen=True)
class Labels:
    """The pixels of a mask as its file holds them."""

    pixels: np.ndarray  # integers [H, W]: grays, entries of a palette, labels; or uint8 [H, W, 3]: colours
    palette: np.ndarray | None = None  # uint8 [K, 3]: the colours of the entries

    @property
    def coloured(self) -> bool:
        return self.pixels.ndim == 3

    def numbers(self) -> np.ndarray:
        """[H, W]: the pixels themselves; of colours their brightest channel."""
        return self.pixels.max(-1) if self.coloured else self.pixels

    def colours(self) -> np.ndarray:
        """[H, W, 3]: the colours that a viewer shows."""
        if self.coloured:
            return self.pixels
        if self.palette is None:
            return np.repeat(self.pixels[..., None], 3, -1)
        return self.palette[self.pixels.clip(max=len(self.palette) - 1)]


def foreground(path: Path, labels: Labels, rule: Rule) -> np.ndarray:
    """bool [H, W]. Without a rule, a mask holds 0 for background and 1 or 255 for foreground, else DataError is raised."""
    if rule == "nonzero":
        return labels.numbers() > 0
    if isinstance(rule, str):
        return labels.numbers() >= int(rule.removeprefix(">="))
    if rule:
        return _is_one_of(labels, rule)
    if labels.coloured or not is_plain(values := np.unique(labels.pixels)):
        values = values_of(labels)
        raise DataError(
            f"{path} has the values {shown(values)}: a mask holds 0 for background and 255 (or 1) for foreground; "
            f"of others, name the foreground, such as {setting(tuple(values[-1:]))}"
        )
    return labels.pixels > 0


def setting(rule: Rule) -> str:
    """The rule as an argument that can be pasted into a shell."""
    return shlex.quote(f"data.foreground={json.dumps(rule)}")


def is_plain(values: np.ndarray) -> bool:
    """Whether the distinct values of a mask are 0 and 255, or 0 and 1, or one of these."""
    return set(values[:3].tolist()) <= {0, 255} or set(values[:3].tolist()) <= {0, 1}


def values_of(labels: Labels) -> list[int | str]:
    """The distinct values as a user writes them, ascending: numbers, or colours "#rrggbb"."""
    if labels.coloured:
        return [colour_name(colour) for colour in np.unique(labels.pixels.reshape(-1, 3), axis=0)]
    return np.unique(labels.pixels).tolist()


def colour_name(colour: np.ndarray) -> str:
    """A colour [3] as "#rrggbb"."""
    return "#" + bytes(colour.tolist()).hex()


def shown(values: list[int | str], limit: int = 6) -> str:
    return ", ".join(map(str, values[:limit])) + (", …" if len(values) > limit else "")


def _is_one_of(labels: Labels, rule: tuple[int | str, ...]) -> np.ndarray:
    found = np.zeros(labels.pixels.shape[:2], bool)
    if not labels.coloured:
        found |= np.isin(labels.pixels, [value for value in rule if isinstance(value, int)])
    if colours := [ImageColor.getrgb(value) for value in rule if isinstance(value, str)]:
        pixels = labels.colours()
        for colour in colours:
            found |= (pixels == colour).all(-1)
    return found
