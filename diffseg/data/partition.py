"""Draw which images are tested on, held out or validated on: whole patients, sized by images, balanced in empty masks.

A unit is what is never divided: the patient, volume or other group of an image, or the image itself where none is known.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from diffseg.data.records import Record, in_parallel
from diffseg.data.splits import Split
from diffseg.errors import DataError

TEST_SHARE = 0.2  # of the images, where a layout has no split

Counts = tuple[int, int]  # images with foreground, and without


@dataclass(frozen=True)
class _Part:
    """What a drawn part should hold, and how far another choice is from that."""

    whole: Counts
    wanted: Counts
    largest: int  # images of the largest unit

    @classmethod
    def of(cls, units: dict[str, Counts], images: int) -> "_Part":
        """About `images` images, the share of empty masks as in the whole; some of each kind, if there are two."""
        full, empty = (sum(counts) for counts in zip(*units.values(), strict=True))
        share = round(images * empty / (full + empty))
        if empty > 1:
            share = min(max(share, 1), empty - 1)
        if full > 1:
            share = min(max(share, images - full + 1), images - 1)
        return cls((full, empty), (images - share, share), max(map(sum, units.values())))

    def distance(self, found: Counts) -> int:
        return sum(abs(count - wanted) for count, wanted in zip(found, self.wanted, strict=True))

    def faults(self, found: Counts) -> tuple[bool, bool, int, bool]:
        """What is wrong with a choice, the worst first: one side has no images, or none with foreground, or the number of
        images is off by more than the largest unit, or one side has all empty masks."""
        nothing, everything = sum(found) == 0, found == self.whole
        full, empty = (here in (0, total) for here, total in zip(found, self.whole, strict=True))
        excess = abs(sum(found) - sum(self.wanted)) - self.largest
        return nothing or everything, full, max(0, excess), empty and 0 < self.wanted[1] < self.whole[1]


def choose_units(units: dict[str, Counts], images: int, order: Callable[[str], Any]) -> set[str]:
    """Choose units that hold about `images` images and their share of the empty masks. Empty if there are fewer than two.

    Units are taken in their order as long as that brings the numbers of images with and without foreground nearer to the
    wanted ones. Then units are exchanged as long as that mends a fault (`_Part.faults`).
    """
    if len(units) < 2:
        return set()
    part, chosen, found = _Part.of(units, images), set(), (0, 0)
    ordered = sorted(units, key=order)

    def toggled(unit: str) -> Counts:
        sign = -1 if unit in chosen else 1
        return found[0] + sign * units[unit][0], found[1] + sign * units[unit][1]

    for unit in ordered:
        if part.distance(toggled(unit)) < part.distance(found):
            found = toggled(unit)
            chosen.add(unit)
    while any(part.faults(found)):
        best = min(ordered, key=lambda unit: (part.faults(toggled(unit)), part.distance(toggled(unit))))
        if part.faults(toggled(best)) >= part.faults(found):
            break
        found = toggled(best)
        chosen ^= {best}
    return chosen


def unit_name(group: str | None, name: str) -> str:
    return name if group is None else group


def hash_key(text: str) -> bytes:
    """A place in an order that depends on nothing but the text."""
    return hashlib.sha256(text.encode()).digest()


def assign_splits(records: Sequence[Record], seed: int, masks: bool = True) -> tuple[Record, ...]:
    """Give the records without a split one: a fifth of them for testing, at least one unit; the rest for training.

    Those of a group that has a split already follow it. The order is that of the hashes of seed and unit, so that adding
    an image moves few others. masks: read them to balance empty ones; one that cannot be read counts as not empty.
    """
    given = {record.group: record.split for record in records if record.split and record.group is not None}
    followed = [record if record.split else replace(record, split=given.get(record.group)) for record in records]
    left = [record for record in followed if not record.split]
    empty = in_parallel(_is_empty, left) if masks else [False] * len(left)
    units = _units([unit_name(record.group, record.name) for record in left], empty)
    tested = choose_units(units, max(1, round(TEST_SHARE * len(left))), lambda unit: hash_key(f"{seed}/{unit}"))
    return tuple(
        record
        if record.split
        else replace(record, split="test" if unit_name(record.group, record.name) in tested else "train")
        for record in followed
    )


def hold_out(split: Split, share: float, rank: Sequence[Any], setting: str, name: str) -> tuple[Split, Split]:
    """Divide a split into what is left and a share of its images that is held out.

    rank: of each image, in which order they are held out; a group has the rank of its first image. setting, name: of
    the share and of the data set, for messages. Raises DataError if either part would be empty.
    """
    names = [unit_name(group, image) for group, image in zip(split.groups, split.names, strict=True)]
    held = count_held_out(names, share, setting, name)
    first: dict[str, Any] = {}
    for unit, place in zip(names, rank, strict=True):
        first[unit] = min(first.get(unit, place), place)
    empty = [not bool(mask.any()) for mask in split.masks]
    chosen = choose_units(_units(names, empty), held, first.__getitem__)
    within = torch.tensor([unit in chosen for unit in names], device=split.device)
    return split.subset((~within).nonzero()[:, 0]), split.subset(within.nonzero()[:, 0])


def count_held_out(units: Sequence[str], share: float, setting: str, name: str) -> int:
    """The number of images to hold out, where units are those of all images. Raises DataError if either part would be empty."""
    count = len(units)
    held = round(share * count)
    if not 0 < held < count:
        raise DataError(
            f"{setting}={share:g} of the {count} training images of {name} holds out {held}: set it so that some are held "
            "out and some are left"
        )
    if len(set(units)) == 1:
        raise DataError(
            f"{setting}={share:g} holds out whole patients or volumes, but all {count} training images of {name} are of "
            f"{units[0]}: add others, or set it to 0"
        )
    return held


def limit_records(records: Sequence[Record], limit: int | None) -> list[Record]:
    """At most `limit` records, by name: of as many groups as possible, then those whose names hash lowest.

    So all trials agree, whatever the order of the listing.
    """
    ordered = sorted(records, key=lambda record: hash_key(record.name))
    places = _interleave([unit_name(record.group, record.name) for record in ordered])
    return sorted((ordered[place] for place in places[:limit]), key=lambda record: record.name)


def interleave_groups(split: Split) -> torch.Tensor:
    """int64 [N] on the split's device: its images in an order whose first few are of as many groups as possible.

    Without groups, the order that they have.
    """
    units = [unit_name(group, name) for group, name in zip(split.groups, split.names, strict=True)]
    hashes = [hash_key(name) for name in split.names] if any(split.groups) else range(len(units))
    order = sorted(range(len(units)), key=hashes.__getitem__)
    return torch.tensor([order[place] for place in _interleave([units[k] for k in order])], device=split.device)


def _interleave(units: Sequence[str]) -> list[int]:
    """Places in a sequence: first the first one of each unit, then the second ones, and so on."""
    count: Counter[str] = Counter()
    turns = []
    for unit in units:
        turns.append(count[unit])
        count[unit] += 1
    return sorted(range(len(units)), key=turns.__getitem__)


def _units(names: Sequence[str], empty: Sequence[bool]) -> dict[str, Counts]:
    """How many images with and without foreground each unit has."""
    units: dict[str, Counts] = {}
    for name, is_empty in zip(names, empty, strict=True):
        full, blank = units.get(name, (0, 0))
        units[name] = (full + (not is_empty), blank + is_empty)
    return units


def _is_empty(record: Record) -> bool:
    try:
        return not record.read_masks().any()
    except DataError:  # which is raised with its sentence when the image is decoded
        return False
