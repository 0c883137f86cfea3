"""The values of all masks of a data set, and the rule of the foreground that they speak for or contradict.

One file does not tell: a label map of one object holds 0 and 1, as a plain mask does. Thresholds were measured on masks of
ISIC16, tumour clusters and LIDC-IDRI that were made label maps, JPEGs (quality 10 to 95), or were resized or blurred.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from diffseg.data.masks import HALF, Rule, colour_name, setting, shown, values_of
from diffseg.data.values import Mask

FLAT = 0.3  # share of a value's pixels that equal their neighbours: in regions 0.8 and more, along edges 0.2 at most
GRAIN = 8  # values along edges, at most, of masks that are drawn by hand, where they are of thin objects
SPARSE = 0.01  # share of pixels along edges, of those between 0 and 255, below which JPEG or resizing has not left them
REGIONS = 0.35  # share of such pixels in regions above which values between 0 and 255 are labels
LEVEL = 0.05  # share of one value among such pixels above which it is a label
THIN = 3.5  # pixels in the middle for each of the contour: JPEG 1.3, enlarged fourfold 3.0; blurred by 2 px 3.9
MIDDLE = (32, 224)  # values that are near neither end
FEW = 0.4  # share of pixels in the middle above which they are no edges
COLOURS = 32  # at most, of a colour mask without JPEG's or resizing's in-between colours
SHADES = 5  # at most, of a hue and black, that are classes and not left by JPEG or resizing
HUE = 0.1  # deviation of colours of one hue from their mean, each divided by its brightest channel
AT_HALF = setting(f">={HALF}")


@dataclass(frozen=True)
class Decision:
    """Which rule the foreground of a data set follows, or why it cannot be known."""

    rule: Rule
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    uniform: tuple[tuple[str, bool], ...] = ()  # what masks are all alike, such as "all 9 test masks", and whether full


@dataclass(frozen=True)
class Tally:
    """The masks of a data set, and how many pixels have which value."""

    masks: tuple[Mask, ...]

    @cached_property
    def pixels(self) -> Counter[int | str]:
        """How many pixels have a value: a number, or "#rrggbb" where any mask has colours."""
        found = Counter()
        for mask in self.masks:
            for value, count in zip(self._names(mask), mask.counts.tolist(), strict=True):
                found[value] += count
        return found

    @cached_property
    def files(self) -> Counter[int | str]:
        """How many masks have a value."""
        return Counter(value for mask in self.masks for value in self._names(mask))

    @property
    def folder(self) -> Path:
        return self.masks[0].path.parent

    @cached_property
    def coloured(self) -> bool:
        return any(mask.values.coloured for mask in self.masks)

    @property
    def total(self) -> int:
        return sum(self.pixels.values())

    def _names(self, mask: Mask) -> list[int | str]:
        return (
            [colour_name(rgb) for rgb in mask.values.colours()[0]] if self.coloured else mask.values.pixels[0].tolist()
        )

    def infer(self) -> Decision:
        """The rule that the masks' values speak for, where none is given."""
        odd = [mask for mask in self.masks if not mask.plain]
        if inverted := self._inverted():
            return Decision((), (inverted,))
        if not odd:
            return Decision(())
        if self.coloured:
            return Decision((), (self._which_colour(next(mask for mask in odd if mask.values.coloured)),))
        kind = self.kind
        if kind == "ends":
            if fault := self._takes_unalike(f">={HALF}"):
                return Decision((), (fault,))
            return Decision(
                f">={HALF}",
                remarks=(
                    f"{self._share(lambda value: 0 < value < 255):.1%} of the pixels of the masks, such as {odd[0].path}, lie "
                    f"between 0 and 255, as JPEG or resizing leaves them: masks are cut at {HALF} "
                    f"({AT_HALF})",
                ),
            )
        if kind in ("soft", "mixed"):
            return Decision((), (self._where_to_cut(odd[0]),))
        return Decision((), (self._which(odd[0]),))

    @cached_property
    def kind(self) -> str:
        """What the values are, if they are no colours.

        "plain": 0 and 255, or 0 and 1. "levels": one in each region. "mixed": levels, and others along edges. "ends": near 0
        and 255, others along edges. "soft": any values anywhere.
        """
        if all(mask.plain for mask in self.masks):
            return "plain"
        between = sum(self._between.values())
        grain = {value: count for value, count in self._between.items() if self._flat[value] < FLAT * count}
        if len(grain) <= GRAIN or sum(grain.values()) < SPARSE * between:
            return "levels"
        if between - sum(grain.values()) > REGIONS * between or max(self.pixels) < HALF:
            return "mixed"
        low, high = MIDDLE
        inside = sum(count for value, count in self.pixels.items() if low <= value < high)
        edges = max(self.pixels) <= 255 and inside <= THIN * sum(mask.contour for mask in self.masks)
        return "ends" if edges and inside <= FEW * self.total else "soft"

    @cached_property
    def _between(self) -> dict[int, int]:
        """The pixels of the values above 0 and below 255 (or the largest)."""
        top = max(255, max(self.pixels))
        return {value: count for value, count in self.pixels.items() if 0 < value < top}

    @cached_property
    def _flat(self) -> Counter[int]:
        """The pixels of each value that equal their neighbours; of plain masks, which are not looked at, none."""
        found = Counter()
        for mask in self.masks:
            if mask.flat is not None:
                for value, count in zip(mask.values.pixels[0].tolist(), mask.flat.tolist(), strict=True):
                    found[value] += count
        return found

    @cached_property
    def cut(self) -> int:
        """Where masks are cut that have values along edges: half of the lowest level, or of the highest value."""
        top = max(self.pixels)
        if self.kind != "mixed":
            return HALF if MIDDLE[1] <= top <= 255 else max(1, (top + 1) // 2)
        enough = LEVEL * sum(self._between.values())
        levels = [value for value, count in self._between.items() if count > enough]
        return max(1, (min(levels or [top]) + 1) // 2)

    def check(self, rule: Rule) -> Decision:
        """The given rule, or why it does not fit what the masks hold."""
        fault = (
            self._takes_unalike(rule)
            or (self._takes_nothing(rule) if isinstance(rule, str) else self._absent(rule))
            or self._loses(rule)
            or (self._inverted() if rule == "nonzero" else None)
            or (self._palettes_disagree(rule) if isinstance(rule, tuple) else None)
        )
        return Decision(rule, (fault,) if fault else ())

    def _takes_unalike(self, rule: Rule) -> str | None:
        """That a rule empties the masks of 0 and 1 beside those of 0 and 255, or the other way round."""
        if self.coloured or self.kind not in ("plain", "ends"):
            return None
        highest = [(int(mask.values.pixels.max()), mask) for mask in self.masks]
        ones = [mask for value, mask in highest if value == 1]
        others = [mask for value, mask in highest if value >= HALF]
        if not ones or not others or any(m.pixels(rule) for m in ones) == any(m.pixels(rule) for m in others):
            return None
        advice = (
            "save them alike" if self.kind == "ends" else "leave data.foreground out, and each is read as it is meant"
        )
        return (
            f"{ones[0].path} holds 0 and 1 (masks that do: {len(ones)}), but {others[0].path} goes up to "
            f"{others[0].values.pixels.max()}, and {setting(rule)} takes them unalike: {advice}"
        )

    def _takes_nothing(self, rule: str) -> str | None:
        if any(mask.pixels(rule) for mask in self.masks):
            return None
        return f"{self.folder} has no mask with foreground by {setting(rule)}: the masks hold {self.shares}"

    def _absent(self, rule: tuple) -> str | None:
        absent = [value for value in rule if not any(mask.pixels((value,)) for mask in self.masks)]
        if not absent:
            return None
        return (
            f"{self.folder} has no mask with {json.dumps(absent)[1:-1]} of {setting(rule)}: the masks hold {self.shares}; name "
            "one of these"
        )

    def _loses(self, rule: Rule) -> str | None:
        """That a rule cuts masks without gaps elsewhere than they are meant."""
        if isinstance(rule, str) and rule != "nonzero":
            return None
        if self.coloured:
            return (
                f"{self.folder} has masks of one hue on black without a gap: set {AT_HALF}, not {setting(rule)}"
                if self._is_blurred_hue() and rule != "nonzero"
                else None
            )
        if self.kind not in ("ends", "mixed", "soft") or (rule, self.kind) == ("nonzero", "soft"):
            return None
        above = self._share(lambda value: value >= self.cut)
        if rule == "nonzero":
            share = self._share(lambda value: 0 < value < self.cut)
            what = f"takes {share:.1%} that is nearer to 0, as JPEG or resizing leaves it"
        else:
            share = above - self._share(lambda value: value >= self.cut and value in rule)
            what = f"would lose {share / max(above, 1e-9):.1%} of the pixels of {self.cut} and more"
        if share <= 0:
            return None
        return f"{self.folder} has masks of which {setting(rule)} {what}: set {setting(f'>={self.cut}')}{self._anew}"

    def _inverted(self) -> str | None:
        mask = next((mask for mask in self.masks if mask.inverted), None)
        if mask is None:
            return None
        palette, other = mask.values.palette, int(mask.values.pixels.max()) or 1
        first, second = (colour_name(palette[entry]) for entry in (0, other))
        return (
            f"{mask.path} has a palette whose entry 0 ({first}) is brighter than entry {other} ({second}), against its numbers: "
            f"say which is foreground, by {setting((first,))} or {setting((second,))}"
        )

    def _palettes_disagree(self, rule: tuple) -> str | None:
        """That an entry's number, which the rule names, has another colour in another palette."""
        seen: dict[int, tuple[str, Path]] = {}
        for mask in self.masks:
            if mask.values.palette is None:
                continue
            for number, colour in zip(mask.values.pixels[0].tolist(), mask.values.colours()[0], strict=True):
                name, path = seen.setdefault(number, (colour_name(colour), mask.path))
                if number in rule and name != colour_name(colour):
                    return (
                        f"{mask.path} has the colour {colour_name(colour)} as entry {number} of its palette, but {path} has "
                        f"{name}: name the foreground by its colour, such as {setting((name,))}"
                    )
        return None

    @property
    def shares(self) -> str:
        """The values with their shares of the pixels and of the masks, the largest first."""
        total, known = self.total, self.pixels.most_common()
        texts = [
            f"{value} ({count / total:.2%} of the pixels, in {self.files[value]} of {len(self.masks)} masks)"
            for value, count in known[:6]
        ]
        return ", ".join(texts) + (f" and {len(known) - 6} more values" if known[6:] else "")

    def _share(self, among: Callable[[int], bool]) -> float:
        return sum(count for value, count in self.pixels.items() if among(value)) / self.total

    def _which(self, odd: Mask) -> str:
        others = [value for value, _ in self.pixels.most_common() if value > 0] or [0]
        mend = ", or mend the file" if 2 * sum(not mask.plain for mask in self.masks) < len(self.masks) else ""
        every = f"{setting('nonzero')} for all but 0, or " if others[1:] else ""
        return (
            f"{odd.path} has the values {shown(values_of(odd.values))}: the masks hold {self.shares}; if they are classes or "
            f"objects, name the foreground, such as {every}{setting((others[0],))}{mend}"
        )

    def _where_to_cut(self, odd: Mask) -> str:
        top = max(255, max(self.pixels))
        mixed = "levels and, as JPEG or resizing leaves them, values around them"
        return (
            f"{odd.path} has {mixed if self.kind == 'mixed' else 'values without a gap'}, and "
            f"{self._share(lambda value: 0 < value < top):.1%} of the pixels of all masks lie between 0 and {top}: say where they "
            f"are cut, such as {setting(f'>={self.cut}')}{self._anew}"
        )

    @property
    def _anew(self) -> str:
        return " for all levels, or save the masks anew as PNG, as they were drawn" if self.kind == "mixed" else ""

    def _which_colour(self, odd: Mask) -> str:
        start = f"{odd.path} has the values {shown(values_of(odd.values))}: the masks hold {self.shares}; "
        if self._is_blurred_hue():
            return f"{start}they are of one hue on black, cut them by {AT_HALF} of the brightest channel"
        if len(self.pixels) > COLOURS:
            return f"{start}JPEG or resizing has mixed the colours: save the masks anew as PNG, with one colour for each class"
        others = [colour for colour, _ in self.pixels.most_common() if colour != "#000000"] or ["#000000"]
        every = f", or {setting('nonzero')} for all but black" if others[1:] else ""
        return f"{start}name the foreground, such as {setting((others[0],))}{every}"

    def _is_blurred_hue(self) -> bool:
        """Whether the colours are many, of one hue, on black."""
        if not self.coloured or len(self.pixels) <= SHADES:
            return False
        colours = np.array([[int(name[k : k + 2], 16) for k in (1, 3, 5)] for name in self.pixels], float)
        counts = np.array(list(self.pixels.values()), float)
        bright = colours.max(1) >= HALF
        if not bright.any() or self._share(lambda name: name == "#000000") == 0:
            return False
        hues, weights = colours[bright] / colours[bright].max(1, keepdims=True), counts[bright] / counts[bright].sum()
        mean = weights @ hues
        return bool((weights @ (hues - mean) ** 2 < HUE**2).all())
