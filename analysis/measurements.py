"""What trials measured of each test image, with its patient or volume, as `statistics.estimate` takes it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from analysis.statistics import UNKNOWN, Estimate, codes, estimate, linearised_ece
from analysis.tables import Tables
from studies.store.tables import METRICS

Key = tuple[str, str]  # study and name of a trial
BINS = 10  # of the table `calibration`


@dataclass(frozen=True)
class Sample:
    """One metric of trials that differ in their seed, without the images that one of them lacks or has NaN of."""

    values: pd.DataFrame  # [seeds, images]; of what is not of single images one column
    groups: pd.Series  # of images by name: their patient or volume, None where it is not known
    measured: int  # images, with those left out; 0 of what is not of single images

    @property
    def images(self) -> int:
        """The images that count; 0 of what is not of single images."""
        return self.values.shape[1] if self.measured else 0

    @property
    def units(self) -> int:
        """The independent units among the images: patients or volumes, and images without one."""
        return len(np.unique(codes(self._groups, self.images))) if self.measured else 0

    @property
    def estimate(self) -> Estimate:
        return estimate(self.values.to_numpy(), self._groups)

    def minus(self, other: "Sample") -> "Sample | None":
        """The differences, paired by seed and image; None without a seed and an image that both have."""
        seeds = self.values.index.intersection(other.values.index)
        images = self.values.columns.intersection(other.values.columns)
        if not len(seeds) or not len(images):
            return None
        values = self.values.loc[seeds, images] - other.values.loc[seeds, images]
        groups = self.groups.combine_first(other.groups) if len(other.groups) else self.groups
        return Sample(values, groups, max(self.measured, other.measured))

    @property
    def _groups(self) -> list | None:
        return self.groups.reindex(self.values.columns).tolist() if len(self.groups) else None


def compare(theirs: Sample, ours: Sample) -> tuple[Estimate, Sample | None]:
    """Return the difference of two configurations and the pairs that it is made of; without any, it is that of the means."""
    if (pairs := theirs.minus(ours)) is None:
        return Estimate(theirs.estimate.mean - ours.estimate.mean, *[np.nan] * 4), None
    return pairs.estimate, pairs


@dataclass(frozen=True)
class Measurements:
    """All metrics of some trials."""

    values: dict[Key, dict[str, pd.Series]]  # by trial and metric: by image, or one value of the whole trial
    groups: dict[Key, pd.Series]  # of each trial's images

    def sample(self, trials: pd.DataFrame, metric: str) -> Sample | None:
        """The metric of trials that differ in their seed (rows of Tables.trials); None if none has a value."""
        keys = list(zip(trials["study"], trials["trial"], strict=True))
        found = {seed: self.values.get(key, {}).get(metric) for seed, key in zip(trials["seed"], keys, strict=True)}
        found = {seed: values for seed, values in found.items() if values is not None}
        if not found:
            return None
        frame = pd.DataFrame(found).T
        of_images = any(len(values) > 1 or values.index[0] != WHOLE for values in found.values())
        if of_images and WHOLE in frame:  # an earlier version measured one of them as a whole: so all are taken
            frame, of_images = frame.mean(axis=1).to_frame(WHOLE), False
        whole = frame.dropna(axis=1)
        groups = [self.groups[key] for key in keys if key in self.groups]
        groups = pd.concat(groups).groupby(level=0).first() if groups and of_images else pd.Series(dtype=object)
        return None if whole.empty else Sample(whole, groups, frame.shape[1] if of_images else 0)


WHOLE = "the whole trial"  # in the place of an image's name


def measure(tables: Tables, trials: pd.DataFrame, metrics: Iterable[str] = METRICS) -> Measurements:
    """The metrics of the trials: by image where the ledger has them so, else the one of the whole trial."""
    metrics = list(metrics)
    values: dict[Key, dict[str, pd.Series]] = {}
    for row in trials.to_dict("records"):
        measured = {m: pd.Series([row[m]], [WHOLE]) for m in metrics if m in row and not pd.isna(row[m])}
        values[row["study"], row["trial"]] = measured
    images, groups = tables.images[tables.images["metric"].isin(metrics)], {}
    for (study, trial, metric), rows in images.groupby(["study", "trial", "metric"], sort=False, observed=True):
        if (study, trial) in values and rows["value"].notna().any():
            values[study, trial][metric] = rows.set_index("image")["value"]
            if (study, trial) not in groups:
                groups[study, trial] = rows.set_index("image")["group"]
    for key, ece, own in _ece(replace(tables, trials=trials)) if "ece" in metrics else ():
        values[key]["ece"] = ece
        groups.setdefault(key, own)
    return Measurements(values, groups)


def _ece(tables: Tables) -> Iterator[tuple[Key, pd.Series, pd.Series]]:
    """(trial, its ECE as values of its images (`statistics.linearised_ece`), their groups); none of earlier versions' trials."""
    columns = ["image", "group", "bin", "count", "confidence", "accuracy"]
    rows = tables.frame("calibration", columns, ds.field("image").is_valid())
    for key, own in rows.groupby(["study", "trial"], sort=False):
        place, images = pd.factorize(own["image"])
        counts, gaps = np.zeros((2, len(images), BINS))
        counts[place, own["bin"]] = own["count"]
        gaps[place, own["bin"]] = own["count"] * (own["confidence"] - own["accuracy"])
        groups = own.drop_duplicates("image").set_index("image")["group"]
        yield key, pd.Series(linearised_ece(gaps, counts), images), groups


def estimates(tables: Tables, pairs: list[tuple[pd.DataFrame, pd.DataFrame]], metric: str) -> list[Estimate]:
    """The difference of theirs to ours for pairs (ours, theirs) of trials; unknown where one of both is missing."""
    both = [trials for pair in pairs if all(map(len, pair)) for trials in pair]
    rows = pd.concat(both).drop_duplicates(["study", "trial"]) if both else tables.trials[:0]
    measured = measure(tables, rows, [metric])
    found = []
    for ours, theirs in pairs:
        one, other = measured.sample(ours, metric), measured.sample(theirs, metric)
        found.append(UNKNOWN if one is None or other is None else compare(other, one)[0])
    return found
