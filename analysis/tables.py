"""The tables of one or more studies as data frames, read from their ledgers when they are asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from analysis.attempts import read_last_attempts
from analysis.frames import GROUP, check_metric, check_table, with_units
from analysis.measurements import Measurements
from analysis.noise_levels import fit_fingerprints, tabulate_fingerprints
from analysis.searches import SearchHistory, load_searches
from analysis.segmentations import tabulate_e1_and_e2
from analysis.series import name_series
from diffseg.config.data import BACKGROUND
from diffseg.errors import UserError
from diffseg.evaluation import pareto
from diffseg.evaluation.registry import METRICS
from diffseg.fingerprint.curve import Fingerprint
from studies.store import classes
from studies.store.classes import ALL, has_classes
from studies.store.ledger import Ledger
from studies.store.tables import SCHEMAS


@dataclass(frozen=True)
class Tables:
    """The last attempts of all trials of some studies, and the rows of the other tables that belong to them.

    Trials of a search, which are tested on held-out images, are not included: `searches` has them. E3 trials that measure
    fingerprints are included. All frames have the columns study, trial, attempt, experiment, dataset, network, seed, and the
    names `variant` and `series` (analysis/series.py), which are alike in all frames. analysis/README.md lists the columns.

    `timesteps` and `images` are of all classes of a mask at once, so that nothing counts twice; `frame` reads single classes.
    """

    ledgers: tuple[Ledger, ...]
    trials: pd.DataFrame  # complete ones
    failed: pd.DataFrame
    whole: Tables | None = None  # all tables, if these are a part of them

    def part(self, trials: pd.DataFrame) -> Tables:
        """Return the tables of only some of the trials."""
        return Tables(self.ledgers, trials, self.failed, self.whole or self)

    def dataset(self, table: str) -> ds.Dataset:
        """Return all rows of a table, of every class and every attempt that ended, for scans by columns and filters.

        Raises UserError if there is no such table.
        """
        check_table(table)
        found = [ledger.dataset(table) for ledger in self.ledgers]
        schema = pa.unify_schemas([one.schema for one in found], promote_options="permissive")
        return ds.dataset([one.replace_schema(schema) for one in found])

    def frame(
        self,
        table: str,
        columns: list[str] | None = None,
        where: ds.Expression | None = None,
        of_class: str | None = ALL,
    ) -> pd.DataFrame:
        """Return a table's rows of the trials.

        Args:
            table: Its name in the ledger.
            columns: Read only these, and those that all frames have.
            where: Read only rows that meet this condition, such as field("metric") == "iou".
            of_class: Read only the rows of this class; "all" reads those of all classes at once. None: all rows, with the
                column `class`. Tables without that column are read whole.

        Raises:
            UserError: There is no such table or column.
        """
        check_table(table, columns or ())
        every = has_classes(table) and of_class is None
        columns = columns and ["trial", "attempt", *columns, *(["class"] if every else [])]
        if has_classes(table) and of_class is not None:
            columns = columns or [name for name in SCHEMAS[table].names if name != "class"]
            condition = classes.of_class(of_class)
            where = condition if where is None else where & condition
        columns = columns and list(dict.fromkeys(columns))
        key = ["study", "trial", "attempt", *(name for name in GROUP if name != "study"), "seed"]
        found = []
        for ledger in self.ledgers:
            ours = self.trials.loc[self.trials["study"] == ledger.study, key]
            rows = ledger.read(table, columns, ours["trial"].tolist(), where).to_pandas()
            held = [name for name in key if name not in ("trial", "attempt") and name in rows]
            rows = rows.drop(columns=held)  # fingerprints name their data set, and trials all of it
            if every:
                rows["class"] = rows["class"].fillna(ALL)
            found.append(rows.merge(ours, on=["trial", "attempt"]))
        return with_units(pd.concat(found, ignore_index=True))

    @cached_property
    def timesteps(self) -> pd.DataFrame:
        """The errors over the noise levels, with `share`, the step as a share of the trial's steps."""
        return self._with_share(self.frame("timesteps"))

    @cached_property
    def class_timesteps(self) -> pd.DataFrame:
        """Like `timesteps`, of each class where masks have several, with the column `class`."""
        several = self.part(self.trials[self.trials["dataset"].isin(list(self.classes))])
        rows = several.frame("timesteps", where=ds.field("class") != ALL, of_class=None)
        return self._with_share(rows)

    def _with_share(self, timesteps: pd.DataFrame) -> pd.DataFrame:
        steps = self.trials[["study", "trial", "config_training_steps"]]
        rows = timesteps.merge(steps, on=["study", "trial"])
        return rows.assign(share=rows["step"] / rows["config_training_steps"])

    @cached_property
    def calibration(self) -> pd.DataFrame:
        """The reliability of each class's probability by image and bin. The class of a single one is "all"."""
        return self.frame("calibration", of_class=None)

    @cached_property
    def examples(self) -> pd.DataFrame:
        """The example pictures, with the class that they show. The class of an image, and of a single class, is "all"."""
        return self.frame("examples", of_class=None)

    @cached_property
    def images(self) -> pd.DataFrame:
        """The metrics of single test images, means over their classes."""
        return self.frame("images")

    @cached_property
    def classes(self) -> dict[str, list[str]]:
        """The names of the classes of each data set whose masks have several, in the order in which data.classes names them."""
        if "config_data_classes" not in self.trials:  # of an earlier version
            return {}
        found: dict[str, list[str]] = {}
        pairs = self.trials[["dataset", "config_data_classes"]].dropna().drop_duplicates()
        for dataset, text in pairs.itertuples(index=False):
            names = [name for name in json.loads(text) if name != BACKGROUND]
            if len(names) > 1:
                found[dataset] = list(dict.fromkeys([*found.get(dataset, []), *names]))
        return found

    def curves(self) -> pd.DataFrame:
        """Return the learning curves: step, metric, value."""
        return self.frame("curves")

    @cached_property
    def measurements(self) -> Measurements:
        """The metrics of single images, and paired samples of them."""
        return Measurements(self)

    @cached_property
    def searches(self) -> list[SearchHistory]:
        """The searches of the studies that have proposed anything."""
        return self.whole.searches if self.whole else load_searches(self.ledgers)

    def best(self, metric: str = "iou") -> pd.DataFrame:
        """Return the trials that measured a segmentation, of each data set the best by the metric first.

        Raises UserError if there is no such metric.
        """
        check_metric(metric)
        measured = self.trials.dropna(subset=[metric])
        ascending = [True, not METRICS[metric].larger_is_better]
        ordered = measured.sort_values(["dataset", metric], ascending=ascending, kind="stable")
        columns = [*GROUP[:-1], "seed", "trial", *METRICS, "seconds"]
        return ordered[columns].reset_index(drop=True)

    def pareto(self, metrics: tuple[str, ...] = ("iou", "ece")) -> pd.DataFrame:
        """Return the rows of `best` that no other row of the data set dominates in the metrics. Raises UserError like it."""
        for metric in metrics:
            check_metric(metric)
        found = self.best(metrics[0]).dropna(subset=list(metrics))
        losses = found[list(metrics)].apply(lambda values: METRICS[values.name].loss(values))
        kept = [
            rows.index[place]
            for _, rows in losses.groupby(found["dataset"])
            for place in pareto.front(list(rows.itertuples(index=False, name=None)))
        ]
        return found.loc[sorted(kept)].reset_index(drop=True)

    def table1(self) -> pd.DataFrame:
        """Return `segmentations.tabulate_e1_and_e2`, the paper's Table 1."""
        return tabulate_e1_and_e2(self)

    @cached_property
    def measured_fingerprints(self) -> list[tuple[dict[str, Any], Fingerprint]]:
        """E3's fingerprints of every kind, with the columns of GROUP."""
        return fit_fingerprints(self.timesteps)

    def fingerprints(self) -> pd.DataFrame:
        """Return `noise_levels.tabulate_fingerprints`: E3's fingerprints of every kind over the noise levels."""
        return tabulate_fingerprints(self.measured_fingerprints)

    def shown(self, variants: int = 4) -> Tables:
        """Return the tables of only the best variants by IoU, or else the first ones: what a chart can show.

        They are the best of each study, data set, experiment and network. Only their rows are read.
        """
        groups = self.trials.groupby(GROUP, sort=False)["iou"].mean().reset_index()
        groups = groups.sort_values("iou", ascending=False, kind="stable", na_position="last")
        kept = groups.groupby(["study", "dataset", "experiment", "network"], sort=False).head(variants)
        return self.part(self.trials.merge(kept[GROUP], on=GROUP))


def load(ledgers: list[Ledger]) -> Tables:
    """Return the tables of one or more studies; one that is given twice counts once.

    Raises UserError if there is none, or if none of their trials has ended.
    """
    if not ledgers:
        raise UserError("no study is named: `diffseg studies` lists those of a store")
    ledgers = list({(ledger.store, ledger.study): ledger for ledger in ledgers}.values())
    last = [read_last_attempts(ledger) for ledger in ledgers]
    last = [frame for frame in last if len(frame)]
    if not last:
        names = ", ".join(ledger.study for ledger in ledgers)
        raise UserError(
            f"no trial of {names} has ended yet, so there is nothing to report: `diffseg status {names}` prints how far it is"
        )
    every = pd.concat(last, ignore_index=True)
    every = every[(every["scored_on"] == "test") | ~every["experiment"].isin(["e1", "e2"])]
    trials = with_units(name_series(every[every["status"] == "complete"], ledgers))
    return Tables(tuple(ledgers), trials, every[every["status"] == "failed"])
