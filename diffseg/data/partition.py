"""The partition of images into splits: whole patients, the wanted number of images, a balanced share of empty masks.

A unit is never divided: it is the patient, volume or other group of an image, or the image itself if no group is known.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from diffseg.config import Data
from diffseg.data.numbering import is_labelled
from diffseg.data.records import Record, in_parallel
from diffseg.data.splits import Split
from diffseg.errors import DataError
from diffseg.labels.classes import IGNORED

TEST_SHARE = 0.2  # of the images, if a layout has no split
MOST_HELD_OUT = 0.5  # share of the training images to which data.held_out_least raises data.held_out at most

Counts = tuple[int, int]  # images with foreground, and without


@dataclass(frozen=True)
class _Part:
    """What a drawn part should hold."""

    whole: Counts  # of all units
    wanted: Counts  # of the part
    largest: int  # images of the largest unit

    @classmethod
    def plan(cls, units: dict[str, Counts], images: int) -> "_Part":
        """Plan for `images` images with the share of empty masks of the whole, and some of each kind if there are two."""
        full, empty = (sum(counts) for counts in zip(*units.values(), strict=True))
        share = round(images * empty / (full + empty))
        if empty > 1:
            share = min(max(share, 1), empty - 1)
        if full > 1:
            share = min(max(share, images - full + 1), images - 1)
        return cls((full, empty), (images - share, share), max(map(sum, units.values())))

    def distance(self, found: Counts) -> int:
        """Return by how many images a choice differs from the wanted counts."""
        return sum(abs(count - wanted) for count, wanted in zip(found, self.wanted, strict=True))

    def faults(self, found: Counts) -> tuple[bool, bool, int, bool]:
        """Return the faults of a choice, the worst first; 0 or False is none.

        One side has no images; one side has no image with foreground; the number of images is off by more than the largest
        unit; one side has all empty masks.
        """
        nothing, everything = sum(found) == 0, found == self.whole
        full, empty = (here in (0, total) for here, total in zip(found, self.whole, strict=True))
        excess = abs(sum(found) - sum(self.wanted)) - self.largest
        return nothing or everything, full, max(0, excess), empty and 0 < self.wanted[1] < self.whole[1]


def choose_units(units: dict[str, Counts], images: int, order: Callable[[str], Any]) -> set[str]:
    """Choose units that hold about `images` images and their share of the empty masks; none if there are fewer than two.

    In their order, units are taken if that brings the numbers of images with and without foreground nearer to the wanted
    ones. Then single units are added or removed as long as that mends a fault (`_Part.faults`).
    """
    if len(units) < 2:
        return set()
    part, chosen, found = _Part.plan(units, images), set(), (0, 0)
    ordered = sorted(units, key=order)

    def toggle(unit: str) -> Counts:
        """Return the counts after the unit is added or removed."""
        sign = -1 if unit in chosen else 1
        return found[0] + sign * units[unit][0], found[1] + sign * units[unit][1]

    for unit in ordered:
        if part.distance(toggle(unit)) < part.distance(found):
            found = toggle(unit)
            chosen.add(unit)
    while any(part.faults(found)):
        best = min(ordered, key=lambda unit: (part.faults(toggle(unit)), part.distance(toggle(unit))))
        if part.faults(toggle(best)) >= part.faults(found):
            break
        found = toggle(best)
        chosen ^= {best}
    return chosen


def unit_name(group: str | None, name: str) -> str:
    """Return the name of an image's unit."""
    return name if group is None else group


def list_units(split: Split) -> list[str]:
    """Return the name of each image's unit."""
    return [unit_name(group, name) for group, name in zip(split.groups, split.names, strict=True)]


def hash_key(text: str) -> bytes:
    """Return a sort key that depends on nothing but the text: its SHA-256."""
    return hashlib.sha256(text.encode()).digest()


def assign_splits(records: Sequence[Record], seed: int, masks: bool = True) -> tuple[Record, ...]:
    """Give every record a split. Of those without one, a fifth, at least one unit, is for testing, the rest for training.

    Records of a group that has a split already follow it. Units are drawn in the order of the hashes of seed and unit, so
    that adding an image moves few others.

    Args:
        seed: data.split_seed.
        masks: read the masks to balance the empty ones; a mask that cannot be read counts as not empty.
    """
    given = {record.group: record.split for record in records if record.split and record.group is not None}
    followed = [
        record if record.split or record.group is None else replace(record, split=given.get(record.group))
        for record in records
    ]
    left = [record for record in followed if not record.split]
    empty = in_parallel(_is_empty, left) if masks else [False] * len(left)
    units = _count_units([unit_name(record.group, record.name) for record in left], empty)
    tested = choose_units(units, max(1, round(TEST_SHARE * len(left))), lambda unit: hash_key(f"{seed}/{unit}"))
    return tuple(
        record
        if record.split
        else replace(record, split="test" if unit_name(record.group, record.name) in tested else "train")
        for record in followed
    )


def held_out_share(config: Data, units: Collection[str]) -> float:
    """Return the share of the training images to hold out: data.held_out, or more where these are few units.

    units: of all training images.
    """
    return max(config.held_out, min(MOST_HELD_OUT, config.held_out_least / len(set(units))))


def hold_out(
    split: Split, share: float, rank: Sequence[Any], setting: str, name: str, fold: int = 0
) -> tuple[Split, Split]:
    """Divide a split into the remaining images and a share that is held out.

    Args:
        split: the images to divide.
        share: of the images to hold out.
        rank: of every image; units are held out in the order of the least rank of their images.
        setting: the name of the share in the configuration, for messages.
        name: of the data set, for messages.
        fold: which part to hold out. Each is drawn from what the ones before it have left.

    Raises:
        DataError: if either part would be empty.
    """
    names = list_units(split)
    held = count_held_out(names, share, setting, name)
    first: dict[str, Any] = {}
    for unit, place in zip(names, rank, strict=True):
        first[unit] = min(first.get(unit, place), place)
    empty = [not bool(((mask != 0) & (mask != IGNORED)).any()) for mask in split.masks]
    chosen = _choose_part(_count_units(names, empty), held, first.__getitem__, fold)
    if not chosen:
        raise DataError(
            f"data.fold is {fold}, but of the {len(names)} training images of {name} nothing is left for this part, since {held} "
            "are held out at a time: set a lower data.fold, or a smaller data.held_out"
        )
    within = torch.tensor([unit in chosen for unit in names], device=split.device)
    return split.subset((~within).nonzero()[:, 0]), split.subset(within.nonzero()[:, 0])


def _choose_part(units: dict[str, Counts], images: int, order: Callable[[str], Any], fold: int) -> set[str]:
    """Choose the units of one of the parts of about `images` images that units are divided into; none if nothing is left for it.

    Each part is chosen from what the ones before it have left. The last one is all that is left, up to 1.5 times as much.
    """
    part = set[str]()
    for place in range(fold + 1):
        units = {unit: counts for unit, counts in units.items() if unit not in part}
        left = sum(map(sum, units.values()))
        if place and (left < 1.5 * images or len(units) == 1):
            part = set(units) if left > images / 2 else set()
        else:
            part = choose_units(units, images, order)
    return part


def count_held_out(units: Sequence[str], share: float, setting: str, name: str) -> int:
    """Return the number of images to hold out. units: of all images. Raises DataError if either part would be empty."""
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
    """Choose at most `limit` records, from as many groups as possible, and return them ordered by name.

    Names decide by their hashes, so that all trials agree, whatever the order of the listing.
    """
    ordered = sorted(records, key=lambda record: hash_key(record.name))
    places = _interleave([unit_name(record.group, record.name) for record in ordered])
    return sorted((ordered[place] for place in places[:limit]), key=lambda record: record.name)


def interleave_groups(split: Split) -> torch.Tensor:
    """Order the images so that the first few are from as many groups as possible: int64 [N] on the split's device.

    Without groups, the images keep their order.
    """
    units = list_units(split)
    hashes = [hash_key(name) for name in split.names] if any(split.groups) else range(len(units))
    order = sorted(range(len(units)), key=hashes.__getitem__)
    return torch.tensor([order[place] for place in _interleave([units[k] for k in order])], device=split.device)


def _interleave(units: Sequence[str]) -> list[int]:
    """Return the places of a sequence of units: the first image of every unit, then the second ones, and so on."""
    count: Counter[str] = Counter()
    turns = []
    for unit in units:
        turns.append(count[unit])
        count[unit] += 1
    return sorted(range(len(units)), key=turns.__getitem__)


def _count_units(names: Sequence[str], empty: Sequence[bool]) -> dict[str, Counts]:
    """Count the images with and without foreground of every unit."""
    units: dict[str, Counts] = {}
    for name, is_empty in zip(names, empty, strict=True):
        full, blank = units.get(name, (0, 0))
        units[name] = (full + (not is_empty), blank + is_empty)
    return units


def _is_empty(record: Record) -> bool:
    """Return whether no mask of an image has a labelled pixel; False if they cannot be read."""
    try:
        return not is_labelled(record.read_masks()).any()
    except DataError:  # it is raised again when the image is decoded
        return False
