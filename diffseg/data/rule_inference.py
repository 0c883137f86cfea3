"""The rule of the foreground that the values of all masks suggest, where `data.foreground` gives none."""

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from diffseg.data.mask_forms import Form
from diffseg.data.mask_histogram import MaskHistogram
from diffseg.data.mask_statistics import BLACK, MaskStatistics
from diffseg.data.masks import HALF, ForegroundRule, format_argument, join_values, list_values
from diffseg.data.records import Record
from diffseg.data.rule_check import AT_HALF, advise_saving_again, find_inverted_palette, find_lost_kind
from diffseg.data.uniform_masks import UniformMasks

MAX_SUGGESTED = 6  # values that are suggested as classes
MAX_COLOURS = 32  # of colour masks without the colours that JPEG or resizing mixes


@dataclass(frozen=True)
class ForegroundDecision:
    """The rule that the foreground of a data set follows, or the problems that leave it undecided."""

    rule: ForegroundRule
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    uniform: tuple[UniformMasks, ...] = ()  # splits whose masks are all empty, or all full
    form: Form | None = None  # what the masks of an image are; None: what the layout says

    def apply(self, records: Iterable[Record]) -> tuple[Record, ...]:
        """Return the records with the rule of their foreground, and with what their masks are."""
        ruled = [replace(record, foreground=self.rule) for record in records]
        if self.form is None:
            return tuple(ruled)
        united, numbered = self.form == "files", self.form == "numbers"
        return tuple(replace(record, united=united, numbered=numbered) for record in ruled)


def infer_rule(masks: MaskStatistics) -> ForegroundDecision:
    """Return the rule that the values suggest; or, as a problem, the question that the user has to answer."""
    others = [mask for mask in masks.masks if not mask.binary]
    if inverted := find_inverted_palette(masks):
        return ForegroundDecision((), (inverted,))
    if not others:
        return ForegroundDecision(())
    if masks.coloured:
        return ForegroundDecision((), (_ask_for_colour(masks, next(mask for mask in others if mask.values.coloured)),))
    if masks.encoding == "blurred-binary":
        return _cut_at_half(masks, others[0])
    ask = _ask_for_threshold if masks.encoding in ("soft", "blurred-levels") else _ask_for_values
    return ForegroundDecision((), (ask(masks, others[0]),))


def _cut_at_half(masks: MaskStatistics, example: MaskHistogram) -> ForegroundDecision:
    """Cut masks whose values lie near 0 and 255 at HALF, with a remark.

    Some masks of the set may hold 0 and 1 instead: the cut would leave them empty, so the set is refused.
    """
    rule = f">={HALF}"
    if fault := find_lost_kind(masks, rule):
        return ForegroundDecision((), (fault,))
    remark = (
        f"{masks.share(lambda value: 0 < value < 255):.1%} of the pixels of all masks, such as {example.path}, lie between 0 "
        f"and 255, as JPEG or resizing leaves them: masks are cut at {HALF} ({AT_HALF})"
    )
    return ForegroundDecision(rule, remarks=(remark,))


def _ask_for_values(masks: MaskStatistics, example: MaskHistogram) -> str:
    """Ask which values are foreground, where each value fills regions."""
    values = [value for value, _ in masks.numbers.most_common() if value > 0] or [0]
    every = f"{format_argument('nonzero')} for all but 0, or " if values[1:] else ""
    few = 2 * sum(not mask.binary for mask in masks.masks) < len(masks.masks)
    return (
        f"{_describe(masks, example)}; if they are classes or objects, name the foreground, such as "
        f"{every}{format_argument((values[0],))}{', or correct the file' if few else ''}{_suggest_classes(values)}"
    )


def _ask_for_threshold(masks: MaskStatistics, example: MaskHistogram) -> str:
    """Ask where masks are cut whose values have no gap."""
    blurred = masks.encoding == "blurred-levels"
    what = "levels and, as JPEG or resizing leaves them, values around these" if blurred else "values without a gap"
    return (
        f"{example.path} has {what}, and {masks.share(lambda value: 0 < value < masks.top):.1%} of the pixels of all masks "
        f"lie between 0 and {masks.top}: give the least value of the foreground, such as "
        f"{format_argument(f'>={masks.threshold}')}{advise_saving_again(masks)}"
    )


def _ask_for_colour(masks: MaskStatistics, example: MaskHistogram) -> str:
    """Ask which colours are foreground."""
    start = _describe(masks, example)
    if masks.blurred_hue:
        return f"{start}; they are of one hue on black, so cut them by {AT_HALF} of the brightest channel"
    if len(masks.pixels) > MAX_COLOURS:
        return (
            f"{start}; JPEG or resizing has mixed the colours, so save the masks again as PNG, with one colour a class"
        )
    colours = [colour for colour, _ in masks.pixels.most_common() if colour != BLACK] or [BLACK]
    every = f", or {format_argument('nonzero')} for all but black" if colours[1:] else ""
    return f"{start}; name the foreground, such as {format_argument((colours[0],))}{every}{_suggest_classes(colours)}"


def _suggest_classes(values: Sequence[int | str]) -> str:
    """Return the alternative to one foreground, as the end of a sentence: a name for each of a few values, or objects."""
    if len(values) > MAX_SUGGESTED:
        return "; or, if each value of a mask is an object, set data.objects=true"
    if len(values) < 2:
        return ""
    ordered = sorted(values, key=lambda value: (isinstance(value, str), value))
    table = dict(zip("abcdef", ordered, strict=False))
    unlabelled = (
        " (with data.ignore=255 if 255 marks what is not labelled)" if ordered[1:] and ordered[-1] == 255 else ""
    )
    return f"; or name each class, such as {shlex.quote(f'data.classes={json.dumps(table)}')}{unlabelled}"


def _describe(masks: MaskStatistics, example: MaskHistogram) -> str:
    """Return the values of one mask and of all, as the start of a sentence."""
    values = join_values(list_values(example.values))
    return f"{example.path} has the values {values}: all masks together hold {masks.describe_values()}"
