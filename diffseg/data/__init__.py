"""Data sets: found on disk in their official layout, decoded once, held as uint8 tensors."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from diffseg.config import Data
from diffseg.data import arrays, brats, folder, isic16, lidc, monuseg
from diffseg.data.cache import through
from diffseg.data.check import Findings, findings
from diffseg.data.records import Found, Record
from diffseg.errors import DataError

LAYOUTS = {"isic16": isic16, "monuseg": monuseg, "lidc": lidc, "brats": brats, "folder": folder}
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Split:
    """Images and masks of one split, decoded."""

    names: tuple[str, ...]
    images: torch.Tensor  # uint8 [N, C, H, W]; where sizes differ padded at bottom and right
    masks: torch.Tensor  # uint8 [N, R, H, W], 0 or 1, one a rater, padded likewise
    sizes: torch.Tensor  # int64 [N, 2]: height and width of each image without that padding

    def to(self, device: torch.device | str) -> "Split":
        return Split(self.names, self.images.to(device), self.masks.to(device), self.sizes.to(device))

    def subset(self, indices: torch.Tensor) -> "Split":
        """The images that indices [K] number."""
        names = tuple(self.names[index] for index in indices.tolist())
        return Split(names, self.images[indices], self.masks[indices], self.sizes[indices])


@dataclass(frozen=True)
class Dataset:
    name: str
    digest: str  # of the decoded content: twelve hexadecimal digits
    train: Split
    test: Split


def load(config: Data, root: Path | None, cache: Path | None = None) -> Dataset:
    """The decoded data set. root: its folder (not used by synthetic data). cache: folder for decoded copies.

    Raises DataError for the first thing that is wrong with it.
    """
    if config.layout == "synthetic":
        content = arrays.synthetic(config)
        return _dataset(config, content, arrays.digest(content))
    found = find(config, root)
    if found.problems:
        more = (
            f" (and {len(found.problems) - 1} more: `diffseg data check {config.name} {root}` lists them)"
            if found.problems[1:]
            else ""
        )
        raise DataError(found.problems[0] + more)
    records = {split: _subset(found.records, split, limit) for split, limit in _limits(config).items()}
    for split, chosen in records.items():
        if not chosen:
            raise DataError(f"{root} has no {split} images: a data set needs images to train on and others to test on")
    if len(records["train"]) == 1:
        raise DataError(f"{root} has a single training image, {records['train'][0].name}: at least two are needed")
    content, digest = through(cache, config, records, lambda: arrays.decoded(config, records))
    if (channels := content["train"].images.shape[1]) != config.channels:
        raise DataError(
            f"the images of {root} have {channels} channels, but data.channels is {config.channels}: "
            f"set data.channels={channels}"
        )
    if not content["train"].masks.any():
        raise DataError(
            f"all {len(records['train'])} training masks of {root} are empty at this size: "
            "check them with `diffseg data check`, or give a larger data.size"
        )
    return _dataset(config, content, digest)


def find(config: Data, root: Path | None) -> Found:
    """What lies at the root, without decoding. Raises DataError if it is not there or not in the layout."""
    if config.layout == "synthetic":
        raise DataError(
            f"data set {config.name} has layout synthetic, which is drawn and has no files: "
            f"give the layout of the files, such as data.layout=folder (allowed are {', '.join(LAYOUTS)})"
        )
    if root is None:
        raise DataError(f"data set {config.name} has no root: give --data {config.name}=ROOT")
    if not root.is_dir():
        raise DataError(
            f"the root of data set {config.name} is {root}, which is not a folder: give --data {config.name}=ROOT anew"
        )
    return LAYOUTS[config.layout].find(root)


def check(config: Data, root: Path) -> Findings:
    """Everything about a data set on disk, and every fault of it. Raises DataError if it is not in the layout at all."""
    return findings(config.name, find(config, root))


def _limits(config: Data) -> dict[str, int | None]:
    return {"train": config.train_images, "test": config.test_images}


def _subset(records: tuple[Record, ...], split: str, limit: int | None) -> list[Record]:
    """The records of a split by name; of more than `limit` those whose names hash lowest, so that all trials agree."""
    chosen = [record for record in records if record.split == split]
    chosen = sorted(chosen, key=lambda record: hashlib.sha256(record.name.encode()).digest())[:limit]
    return sorted(chosen, key=lambda record: record.name)


def _dataset(config: Data, content: arrays.Content, digest: str) -> Dataset:
    splits = {
        split: Split(part.names, *map(torch.from_numpy, (part.images, part.masks, part.sizes)))
        for split, part in content.items()
    }
    return Dataset(config.name, digest, **splits)
