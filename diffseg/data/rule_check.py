"""Whether a given `data.foreground` fits the values that the masks of a data set hold."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from diffseg.data.mask_histogram import MaskHistogram
from diffseg.data.mask_statistics import MaskStatistics
from diffseg.data.masks import HALF, ForegroundRule, colour_name, format_argument

AT_HALF = format_argument(f">={HALF}")


def find_fault(masks: MaskStatistics, rule: ForegroundRule) -> str | None:
    """Return the first problem of the rule with the masks, as one sentence; None if it fits."""
    fault = find_lost_kind(masks, rule)
    fault = fault or (_find_no_foreground(masks, rule) if isinstance(rule, str) else _find_absent_values(masks, rule))
    fault = fault or (_find_coloured_loss(masks, rule) if masks.coloured else _find_loss(masks, rule))
    if not fault and rule == "nonzero":
        return find_inverted_palette(masks)
    if not fault and isinstance(rule, tuple):
        first = "name the foreground by its colour, such as {}"
        return find_other_palette(masks, rule, lambda colour: first.format(format_argument((colour,))))
    return fault


def find_lost_kind(masks: MaskStatistics, rule: ForegroundRule) -> str | None:
    """Return a problem if a set mixes masks of 0 and 1 with masks of 0 and 255, and the rule loses one kind's foreground."""
    if masks.coloured or masks.encoding not in ("binary", "blurred-binary"):
        return None
    highest = [(int(mask.values.pixels.max()), mask) for mask in masks.masks]
    ones = [mask for value, mask in highest if value == 1]
    others = [mask for value, mask in highest if value >= HALF]
    if not ones or not others or _mark_any(ones, rule) == _mark_any(others, rule):
        return None
    advice = "save all masks with the same values"
    if masks.encoding == "binary":
        advice = "leave data.foreground out, so that each mask is read by its own values"
    count = f"{len(ones)} masks do" if ones[1:] else "1 mask does"
    return (
        f"{ones[0].path} holds 0 and 1, as {count}, but {others[0].path} goes up to "
        f"{others[0].values.pixels.max()}, and {format_argument(rule)} finds foreground in one kind only: {advice}"
    )


def find_inverted_palette(masks: MaskStatistics) -> str | None:
    """Return a problem if the palette of a binary mask shows background, its entry 0, brighter than foreground."""
    mask = next((mask for mask in masks.masks if mask.inverted), None)
    if mask is None or mask.values.palette is None:
        return None
    other = int(mask.values.pixels.max()) or 1
    first, second = (colour_name(mask.values.palette[entry]) for entry in (0, other))
    return (
        f"{mask.path} has a palette whose entry 0 ({first}), which stands for background, is brighter than entry {other} "
        f"({second}): say which is foreground, by {format_argument((first,))} or {format_argument((second,))}"
    )


def advise_saving_again(masks: MaskStatistics) -> str:
    """Return the alternative to a threshold, as the end of a sentence, where levels are blurred; else nothing."""
    return " for all levels, or save the masks again as PNG, as drawn" if masks.encoding == "blurred-levels" else ""


def _mark_any(masks: Iterable[MaskHistogram], rule: ForegroundRule) -> bool:
    """Return whether the rule finds foreground in any of the masks."""
    return any(mask.count_foreground(rule) for mask in masks)


def _find_no_foreground(masks: MaskStatistics, rule: str) -> str | None:
    """Return a problem if "nonzero" or a threshold finds foreground in no mask."""
    if _mark_any(masks.masks, rule):
        return None
    return (
        f"{masks.folder} has no mask with foreground by {format_argument(rule)}: the masks hold {masks.describe_values()}; "
        "give a rule that fits some of these"
    )


def _find_absent_values(masks: MaskStatistics, rule: tuple[int | str, ...]) -> str | None:
    """Return a problem if the rule names values or colours that no mask has."""
    absent = [value for value in rule if not _mark_any(masks.masks, (value,))]
    if not absent:
        return None
    return (
        f"{masks.folder} has no mask with {json.dumps(absent)[1:-1]} of {format_argument(rule)}: the masks hold "
        f"{masks.describe_values()}; name one of these"
    )


def _find_coloured_loss(masks: MaskStatistics, rule: ForegroundRule) -> str | None:
    """Return a problem if the rule names single colours of masks that hold one blurred hue."""
    if isinstance(rule, str) or not masks.blurred_hue:
        return None
    return f"{masks.folder} has masks of one hue on black without a gap: set {AT_HALF}, not {format_argument(rule)}"


def _find_loss(masks: MaskStatistics, rule: ForegroundRule) -> str | None:
    """Return a problem if the rule cuts blurred or soft masks elsewhere than at their threshold.

    Thresholds that are given are accepted, and so is "nonzero" of soft masks: any probability above 0.
    """
    if isinstance(rule, str) and rule != "nonzero":
        return None
    if masks.encoding in ("binary", "levels") or (rule, masks.encoding) == ("nonzero", "soft"):
        return None
    threshold = masks.threshold
    if isinstance(rule, str):
        share = masks.share(lambda value: 0 < value < threshold)
        what = f"takes {share:.1%} that is nearer to 0, as JPEG or resizing leaves it"
    else:
        above = masks.share(lambda value: value >= threshold)
        share = above - masks.share(lambda value: value >= threshold and value in rule)
        what = f"would lose {share / max(above, 1e-9):.1%} of the pixels of {threshold} and more"
    if share <= 0:
        return None
    return (
        f"{format_argument(rule)} does not fit the masks in {masks.folder}, since it {what}: set "
        f"{format_argument(f'>={threshold}')}"
        f"{advise_saving_again(masks)}"
    )


def find_blurred_ignored(masks: MaskStatistics, ignored: tuple[int | str, ...]) -> str | None:
    """Return a problem if JPEG or resizing has blurred masks with ignored pixels: these are no longer told by their value."""
    if masks.coloured or masks.encoding not in ("blurred-binary", "blurred-levels"):
        return None
    example = next(mask for mask in masks.masks if not mask.binary)
    return (
        f"{example.path} has values around others, as JPEG or resizing leaves them, so its ignored pixels "
        f"(data.ignore={json.dumps(ignored)}) cannot be told from others: save the masks again as PNG, as drawn"
    )


def find_other_palette(masks: MaskStatistics, named: tuple[int | str, ...], advise: Callable[[str], str]) -> str | None:
    """Return a problem if a palette's entry that is named by its number has another colour in another mask.

    advise: returns what to do, given the colour of one of the two.
    """
    seen: dict[int, tuple[str, Path]] = {}
    for mask in masks.masks:
        if mask.values.palette is None:
            continue
        for number, colour in zip(mask.values.pixels[0].tolist(), mask.values.to_rgb()[0], strict=True):
            own = colour_name(colour)
            name, path = seen.setdefault(number, (own, mask.path))
            if number in named and name != own:
                return (
                    f"{mask.path} has the colour {own} as entry {number} of its palette, but {path} has {name}: "
                    f"{advise(name)}"
                )
    return None
