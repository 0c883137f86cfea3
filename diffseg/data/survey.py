"""What all masks of a data set hold, and what their foreground therefore is.

One file does not tell: a label map of one object holds 0 and 1, as a plain mask does. Thresholds were measured on masks of
ISIC16, tumour clusters and LIDC-IDRI that were made label maps, JPEGs (quality 10 to 95), or were resized or blurred.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from diffseg.data.masks import HALF, Rule, colour_name, shown, values_of
from diffseg.data.records import Record, in_parallel
from diffseg.data.values import Mask
from diffseg.errors import DataError

FLAT = (
    0.5  # share of pixels between 0 and 255 that equal their neighbours: 0.84 and more of label maps, else 0.2 at most
)
DOMINANT = 0.5  # share of one value among those in the middle: thin classes, which are not flat
THIN = 3.5  # pixels in the middle for each of the contour: JPEG 1.3, enlarged fourfold 3.0; blurred by 2 px 3.9
MIDDLE = (32, 224)  # values that are near neither end
COLOURS = 32  # at most, of a colour mask without JPEG's or resizing's in-between colours
SHADES = 5  # at most, of a hue and black, that are classes and not left by JPEG or resizing
HUE = 0.1  # deviation of colours of one hue from their mean, each divided by its brightest channel


@dataclass(frozen=True)
class Looked:
    """The masks of one image."""

    masks: tuple[Mask, ...]
    overlap: bool  # whether a pixel is marked in several of them
    marked: int  # masks that are not empty


@dataclass(frozen=True)
class Decision:
    """Which rule the foreground of a data set follows, or why it cannot be known."""

    rule: Rule
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def decide(
    records: Sequence[Record],
    rule: Rule = (),
    objects: bool | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Decision:
    """Decide by all masks of the records. rule: data.foreground; objects: data.objects. Unreadable masks are passed over."""
    stored = [record for record in records if record.stores_labels and record.annotations]
    looked = [one for one in in_parallel(_look, stored, on_progress) if one]
    survey = Survey(tuple(mask for one in looked for mask in one.masks))
    if not survey.masks:
        return Decision(rule)
    found = survey.check(rule) if rule else survey.infer()
    several = [one for one in looked if one.marked > 1]
    if objects is None and several and not any(one.overlap for one in several):
        found = Decision(found.rule, (*found.problems, _never_overlap(several)), found.remarks)
    return found


def _look(record: Record) -> Looked | None:
    try:
        labels = [record.labels(path) for path in record.annotations]
    except DataError:
        return None  # reported where the image is decoded
    masks = tuple(map(Mask.of, record.annotations, labels))
    if len(masks) == 1 or len({one.pixels.shape[:2] for one in labels}) > 1:
        return Looked(masks, False, 0)
    marks = [one.numbers() >= (HALF if one.numbers().max() >= HALF else 1) for one in labels]
    return Looked(masks, bool((np.sum(marks, 0) > 1).any()), sum(bool(mark.any()) for mark in marks))


def _never_overlap(several: list[Looked]) -> str:
    first, second = (mask.path for mask in several[0].masks[:2])
    return (
        f"{first} and {second.name} mark different places, and so do all masks of the {len(several)} images with several: "
        "if they are objects, data.objects=true unites them; if they are raters, set data.objects=false"
    )


@dataclass(frozen=True)
class Survey:
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
        if inverted := next((mask for mask in self.masks if mask.inverted), None):
            return Decision((), (_inverted(inverted),))
        if not odd:
            return Decision(())
        if self.coloured:
            return Decision((), (self._which_colour(next(mask for mask in odd if mask.values.coloured)),))
        kind = self.kind
        if kind == "ends":
            return Decision(
                f">={HALF}",
                remarks=(
                    f"{self._share(lambda value: 0 < value < 255):.1%} of the pixels of the masks, such as {odd[0].path}, lie "
                    f"between 0 and 255, as JPEG or resizing leaves them: masks are cut at {HALF} "
                    f'(data.foreground=">={HALF}")',
                ),
            )
        if kind == "soft":
            return Decision((), (self._where_to_cut(odd[0]),))
        return Decision((), (self._which(odd[0]),))

    @cached_property
    def kind(self) -> str:
        """ "plain", "levels" (labels, one a region), "ends" (near 0 and 255) or "soft" (a continuum). Not of colours."""
        if all(mask.plain for mask in self.masks):
            return "plain"
        between, flat, contour = (sum(getattr(m, name) for m in self.masks) for name in ("between", "flat", "contour"))
        low, high = MIDDLE
        middle = {value: count for value, count in self.pixels.items() if low <= value < high}
        inside = sum(middle.values())
        if max(self.pixels) > 255:
            return "soft" if flat < FLAT * between and len(self.pixels) > COLOURS else "levels"
        if max(self.pixels) < HALF or flat >= FLAT * between or max(middle.values(), default=0) > DOMINANT * inside > 8:
            return "levels"
        return "ends" if inside <= THIN * contour else "soft"

    def check(self, rule: Rule) -> Decision:
        """The given rule, or why it does not fit what the masks hold."""
        named = f"data.foreground={json.dumps(rule)}"
        folder = self.masks[0].path.parent
        if not self.coloured and self.kind == "plain" and {1, 255} <= self.pixels.keys() and rule != "nonzero":
            ones, others = (self.files[value] for value in (1, 255))
            return Decision(rule, (f"{folder} has {ones} masks of 0 and 1 and {others} of 0 and 255, which {named} takes unalike: "
                                   "leave data.foreground out, and each is read as it is meant",))  # fmt: skip
        if isinstance(rule, str):
            if not any(mask.pixels(rule) for mask in self.masks):
                return Decision(
                    rule, (f"{folder} has no mask with foreground by {named}: the masks hold {self.shares}",)
                )
            if rule == "nonzero" and not self.coloured and self.kind == "ends":
                share = self._share(lambda value: 0 < value < HALF)
                return Decision(rule, (f"{folder} has masks of which {named} takes {share:.1%} that is nearer to 0 than to "
                                       f'255, as JPEG or resizing leaves it: set data.foreground=">={HALF}"',))  # fmt: skip
            return self._unless_inverted(rule) if rule == "nonzero" else Decision(rule)
        if absent := [value for value in rule if not any(mask.pixels((value,)) for mask in self.masks)]:
            values = json.dumps(absent)[1:-1]
            return Decision(
                rule,
                (f"{folder} has no mask with {values} of {named}: the masks hold {self.shares}; name one of these",),
            )
        if not self.coloured and self.kind in ("ends", "soft"):
            above = self._share(lambda value: value >= HALF)
            lost = above - self._share(lambda value: value >= HALF and value in rule)
            if lost > 0:
                return Decision(rule, (f"{folder} has masks of which {named} would lose {lost / above:.1%} of the pixels that are "
                                       f'nearer to 255 than to 0: set data.foreground=">={HALF}"',))  # fmt: skip
        if self._blurred_hue():
            return Decision(
                rule,
                (f'{folder} has masks of one hue on black without a gap: set data.foreground=">={HALF}", not {named}',),
            )
        return self._same_palette(rule)

    def _unless_inverted(self, rule: Rule) -> Decision:
        inverted = next((mask for mask in self.masks if mask.inverted), None)
        return Decision(rule, (_inverted(inverted),) if inverted else ())

    def _same_palette(self, rule: tuple) -> Decision:
        """Numbers of palettes name one thing only where all palettes have one colour for them."""
        seen: dict[int, tuple[str, Path]] = {}
        for mask in self.masks:
            if mask.values.palette is None:
                continue
            for number, colour in zip(mask.values.pixels[0].tolist(), mask.values.colours()[0], strict=True):
                name, path = seen.setdefault(number, (colour_name(colour), mask.path))
                if number in rule and name != colour_name(colour):
                    return Decision(
                        rule,
                        (
                            f"{mask.path} has the colour {colour_name(colour)} as entry {number} of its palette, but {path} has "
                            f'{name}: name the foreground by its colour, such as data.foreground=["{name}"]',
                        ),
                    )
        return Decision(rule)

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
        others = [value for value, _ in self.pixels.most_common() if value > 0]
        mend = ", or mend the file" if 2 * sum(not mask.plain for mask in self.masks) < len(self.masks) else ""
        every = 'data.foreground="nonzero" for all but 0, or ' if others[1:] else ""
        return (
            f"{odd.path} has the values {shown(values_of(odd.values))}: the masks hold {self.shares}; if they are classes or "
            f"objects, name the foreground, such as {every}data.foreground=[{others[0] if others else 0}]{mend}"
        )

    def _where_to_cut(self, odd: Mask) -> str:
        top = 255 if max(self.pixels) <= 255 else max(self.pixels)
        half = HALF if top == 255 else (top + 1) // 2
        return (
            f"{odd.path} has values without a gap, and {self._share(lambda value: 0 < value < top):.1%} of the pixels of all "
            f'masks lie between 0 and {top}: say where they are cut, such as data.foreground=">={half}"'
        )

    def _which_colour(self, odd: Mask) -> str:
        start = f"{odd.path} has the values {shown(values_of(odd.values))}: the masks hold {self.shares}; "
        if self._blurred_hue():
            return (
                f'{start}they are of one hue on black, cut them by data.foreground=">={HALF}" of the brightest channel'
            )
        if len(self.pixels) <= COLOURS:
            others = [colour for colour, _ in self.pixels.most_common() if colour != "#000000"]
            every = ', or data.foreground="nonzero" for all but black' if others[1:] else ""
            return f"{start}name the foreground, such as data.foreground={json.dumps(others[:1])}{every}"
        if self._one_hue():
            return (
                f'{start}they are of one hue on black, cut them by data.foreground=">={HALF}" of the brightest channel'
            )
        return (
            f"{start}JPEG or resizing has mixed the colours: save the masks anew as PNG, with one colour for each class"
        )

    def _blurred_hue(self) -> bool:
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


def _inverted(mask: Mask) -> str:
    palette, other = mask.values.palette, int(mask.values.pixels.max()) or 1
    names = [colour_name(palette[0]), colour_name(palette[other])]
    return (
        f"{mask.path} has a palette whose entry 0 ({names[0]}) is brighter than entry {other} ({names[1]}), against its numbers: "
        f'say which is foreground, by data.foreground=["{names[0]}"] or data.foreground=["{names[1]}"]'
    )
