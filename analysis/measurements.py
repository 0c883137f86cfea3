"""The metrics of test images by trial, and paired differences between trials, as `statistics.estimate` takes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from analysis import group_dice
from analysis.statistics import UNKNOWN, Component, Estimate, components, estimate, linearised_ece, number_groups
from diffseg.evaluation.registry import MEASURES
from studies.store.classes import ALL

if TYPE_CHECKING:
    from analysis.tables import Tables

Key = tuple[str, str]  # study and name of a trial
Values = dict[Key, pd.Series]  # by trial: by image, or one value of the whole trial
Pair = tuple[pd.DataFrame, pd.DataFrame]  # the trials of two configurations: ours, theirs
BINS = 10  # of the table `calibration`
WHOLE = "the whole trial"  # in the place of an image's name


@dataclass(frozen=True)
class Sample:
    """One metric of trials that differ in their seed, without the images that one of them lacks or has NaN for."""

    values: pd.DataFrame  # [seeds, images]; one column if the metric is not of single images
    groups: pd.Series  # the patient or volume of each image by name; None where it is not known
    measured: int  # images, with those left out; 0 if the metric is not of single images
    range: tuple[float, float] = (-np.inf, np.inf)  # of the values

    @property
    def images(self) -> int:
        """The number of images that count; 0 if the metric is not of single images."""
        return int(self.values.shape[1]) if self.measured else 0

    @property
    def units(self) -> int:
        """The number of independent units among the images: patients or volumes, and images without one."""
        return len(np.unique(number_groups(self._groups, self.images))) if self.measured else 0

    @property
    def components(self) -> list[Component]:
        """The variance of the mean by images (or patients) and by seeds (`statistics.components`)."""
        return components(self.values.to_numpy(), self._groups)

    @property
    def estimate(self) -> Estimate:
        """The mean with its interval, as far as it lies in the range of the values."""
        return estimate(self.values.to_numpy(), self._groups).within(*self.range)

    def minus(self, other: Sample) -> Sample | None:
        """Return the differences, paired by seed and image; None if the two share no seed or no image."""
        seeds = self.values.index.intersection(other.values.index)
        images = self.values.columns.intersection(other.values.columns)
        if not len(seeds) or not len(images):
            return None
        values = self.values.loc[seeds, images] - other.values.loc[seeds, images]
        groups = self.groups.combine_first(other.groups) if len(other.groups) else self.groups
        return Sample(values, groups, max(self.measured, other.measured))

    @property
    def _groups(self) -> list[Any] | None:
        """The group of each column; None if no groups are known."""
        return self.groups.reindex(self.values.columns).tolist() if len(self.groups) else None


def compare(theirs: Sample, ours: Sample) -> tuple[Estimate, Sample | None]:
    """Return the mean of `theirs` − `ours`, paired by seed and image, and the pairs.

    If they share no seed or no image, the difference of their means is returned without an interval, and None.
    """
    if (pairs := theirs.minus(ours)) is None:
        unknown = [np.nan] * 4  # limits, p and effect
        return Estimate(theirs.estimate.mean - ours.estimate.mean, *unknown), None
    return pairs.estimate, pairs


class Measurements:
    """The metrics of the trials of some tables, each read once, when it is asked for first."""

    def __init__(self, tables: Tables):
        """Read nothing yet."""
        self._tables = tables
        self._values: dict[tuple[str, str], Values] = {}  # by metric and class

    def sample(self, trials: pd.DataFrame, metric: str, of_class: str = ALL) -> Sample | None:
        """Return the metric of trials that differ in their seed (rows of Tables.trials); None if none has a value.

        of_class: The class whose metric it is; "all" for the mean over the classes.
        """
        key = (metric, of_class)
        if key not in self._values:
            self._values[key] = self._read(metric, of_class)
        found = collect(trials, self._values[key], {} if metric == group_dice.NAME else self._groups)
        known = MEASURES.get(metric)
        limits = (known.least, known.most) if known else (0.0, 1.0)  # the Dice of patients or volumes
        return found and replace(found, range=limits)

    def means(self, metric: str, of_class: str) -> pd.Series:
        """Return the metric's mean over the images of each trial, by (study, trial), without those that did not measure it."""
        key = (metric, of_class)
        if key not in self._values:
            self._values[key] = self._read(metric, of_class)
        return pd.Series({trial: values.mean() for trial, values in self._values[key].items()}, dtype=float)

    def _read(self, metric: str, of_class: str) -> Values:
        """Return the metric of every trial: by image where the ledger has it so, else of the whole trial."""
        if metric == group_dice.NAME:
            return group_dice.measure_group_dice(self._tables, of_class)
        values, images = {}, self._tables.images
        if of_class == ALL:
            trials = self._tables.trials
            whole = trials[["study", "trial", metric]].dropna().to_numpy() if metric in trials else ()
            values = {(study, trial): pd.Series([value], [WHOLE]) for study, trial, value in whole}
        else:
            images = self._tables.frame("images", ["image", "metric", "value"], ds.field("metric") == metric, of_class)
        for key, rows in images[images["metric"] == metric].groupby(["study", "trial"], sort=False, observed=True):
            if rows["value"].notna().any():
                values[key] = rows.set_index("image")["value"].replace([np.inf, -np.inf], np.nan)
        if metric == "ece":
            values |= self._linearise_eces(of_class)
        return values

    def _linearise_eces(self, of_class: str) -> Values:
        """Return every trial's ECE of a class as values of its images; that of all classes is the mean over them."""
        found: dict[Key, list[pd.Series]] = {}
        for key, name, rows in self._calibration:
            if of_class in (ALL, name):
                found.setdefault(key, []).append(_linearise(rows))
        return {key: own[0] if len(own) == 1 else pd.concat(own, axis=1).mean(axis=1) for key, own in found.items()}

    @cached_property
    def _calibration(self) -> list[tuple[Key, str, pd.DataFrame]]:
        """The calibration of single images, by trial and class.

        None of earlier versions, which recorded that of the whole trial only.
        """
        columns = ["image", "group", "bin", "count", "confidence", "accuracy"]
        rows = self._tables.frame("calibration", columns, ds.field("image").is_valid(), of_class=None)
        groups = rows.groupby(["study", "trial", "class"], sort=False)
        return [((study, trial), name, own) for (study, trial, name), own in groups]

    @cached_property
    def _groups(self) -> Values:
        """The patient or volume of each trial's images."""
        found = {key: _first_groups(rows) for key, _, rows in self._calibration}
        images = self._tables.images
        return found | {key: _first_groups(rows) for key, rows in images.groupby(["study", "trial"], observed=True)}


def collect(trials: pd.DataFrame, values: Values, groups: Values) -> Sample | None:
    """Return one metric of trials that differ in their seed (rows of Tables.trials); None if none has a value."""
    keys = list(zip(trials["study"], trials["trial"], strict=True))
    found = {seed: values[key] for seed, key in zip(trials["seed"], keys, strict=True) if key in values}
    if not found:
        return None
    frame = pd.DataFrame(found).T
    of_images = any(len(each) > 1 or each.index[0] != WHOLE for each in found.values())
    if of_images and WHOLE in frame:  # an earlier version measured one of them as a whole: so all are taken
        frame, of_images = frame.mean(axis=1).to_frame(WHOLE), False
    kept = frame.dropna(axis=1)
    known = [groups[key] for key in keys if key in groups]
    own = pd.concat(known).groupby(level=0).first() if known and of_images else pd.Series(dtype=object)
    return None if kept.empty else Sample(kept, own, frame.shape[1] if of_images else 0)


def _linearise(calibration: pd.DataFrame) -> pd.Series:
    """Return a trial's ECE of a class as values of its images (`statistics.linearised_ece`)."""
    place, images = pd.factorize(calibration["image"])
    counts, gaps = np.zeros((2, len(images), BINS))
    counts[place, calibration["bin"]] = calibration["count"]
    gaps[place, calibration["bin"]] = calibration["count"] * (calibration["confidence"] - calibration["accuracy"])
    return pd.Series(linearised_ece(gaps, counts), images)


def _first_groups(rows: pd.DataFrame) -> pd.Series:
    """Return the group of each image."""
    return rows.drop_duplicates("image").set_index("image")["group"]


def estimate_differences(
    tables: Tables, pairs: list[Pair], metric: str, classes: list[str] | None = None
) -> list[Estimate]:
    """Return the difference of theirs to ours for each pair (ours, theirs); UNKNOWN where one of both is missing.

    classes: The class of each pair; None: the mean over the classes.
    """
    found = []
    for (ours, theirs), name in zip(pairs, classes or [ALL] * len(pairs), strict=True):
        one, other = (
            tables.measurements.sample(trials, metric, name) if len(trials) else None for trials in (ours, theirs)
        )
        found.append(UNKNOWN if one is None or other is None else compare(other, one)[0])
    return found
