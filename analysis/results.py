"""The results of studies as a notebook wants them: tables with units, comparisons, and charts as methods."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any

import pandas as pd

from analysis.comparison import LISTED, NAMES, compare_to_baseline
from analysis.configurations import name_configurations, select_baseline
from analysis.differences import tabulate_differences
from analysis.frames import check_metric, with_units
from analysis.plots import Plots
from analysis.searches import PROPOSALS, rank_proposals
from analysis.series import EXPERIMENTS
from analysis.tables import Tables
from diffseg.errors import UserError
from diffseg.evaluation.registry import METRICS
from diffseg.nouns import noun
from diffseg.suggestions import suggest
from studies.store.names import log_name

COMPLETIONS = (
    "best", "calibration", "classes", "compare", "curves", "dataset", "differences", "examples", "failed", "fingerprints", "frame",
    "images", "log", "measured", "pareto", "plot", "proposals", "searches", "select", "table1", "timesteps", "trials",
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class Results(Tables):
    """The results so far of one or more studies. Every table is a DataFrame, whose `attrs["units"]` has units by column.

    Metrics, shares and their differences are fractions everywhere: an IoU of 0.87, not 87. Rows are of the last attempts of
    complete trials, scored on test images; `proposals` has those of searches, scored on held-out images.
    """

    @property
    def title(self) -> str:
        """The names of the studies, separated by commas."""
        return ", ".join(ledger.study for ledger in self.ledgers)

    @cached_property
    def measured(self) -> list[str]:
        """The names of the metrics that a complete trial has measured."""
        return [name for name in METRICS if name in self.trials and self.trials[name].notna().any()]

    @cached_property
    def best_variants(self) -> Tables:
        """The variants that charts have room for (`Tables.shown`)."""
        return self.shown()

    def select(self, **values: object) -> "Results":
        """Return the results of only the trials that have these values, such as `select(dataset="isic16", seed=0)`.

        Raises UserError for a column that `trials` does not have, or if no trial has the value.
        """
        trials, failed = self.trials, self.failed
        for column, value in values.items():
            if column not in trials:
                raise UserError(f"trials have no column '{column}': {suggest(column, trials.columns)}")
            known = list(map(str, trials[column].dropna().unique()))
            if str(value) not in known:
                raise UserError(f"no trial has the {column} '{value}': {suggest(str(value), known)}")
            trials = trials[trials[column] == value]
            failed = failed[failed[column] == value] if column in failed else failed
        return Results(self.ledgers, trials, failed, self.whole or self)

    def best(self, metric: str = "iou") -> pd.DataFrame:
        """Return the trials that measured a segmentation, of each data set the best by the metric first.

        Raises UserError if there is no such metric, or if no trial has measured it.
        """
        self._check_measured(metric)
        return with_units(super().best(metric))

    def pareto(self, metrics: tuple[str, ...] = ("iou", "ece")) -> pd.DataFrame:
        """Return the rows of `best` that no other row of the data set dominates in the metrics. Raises UserError like it."""
        chosen = (metrics,) if isinstance(metrics, str) else tuple(metrics)
        for metric in chosen:
            self._check_measured(metric)
        return with_units(super().pareto(chosen))

    def table1(self) -> pd.DataFrame:
        """Return the paper's Table 1: IoU and ECE of E1 and E2, means and standard deviations over seeds, as fractions."""
        return with_units(super().table1())

    def differences(self, metrics: Sequence[str] = ("iou", "ece")) -> pd.DataFrame:
        """Return E2 − E1 with 95 % intervals, p-values and verdicts (`differences.tabulate_differences`).

        Raises UserError if there is no such metric.
        """
        chosen = [metrics] if isinstance(metrics, str) else list(metrics)
        for metric in chosen:
            check_metric(metric)
        return with_units(tabulate_differences(self, chosen))

    def compare(self, baseline: str | None = None, metrics: Sequence[str] | None = None) -> pd.DataFrame:
        """Return every configuration against a baseline, a row for each class and metric (`compare_configurations`).

        Args:
            baseline: The name of a variant, a series, a proposal, or an experiment such as "e1". None: the baseline that the
                study file or a confirmed search has.
            metrics: Names of metrics; None: those that `diffseg compare` shows.

        Raises:
            UserError: There is no such baseline or metric, or nothing to compare with.
        """
        chosen = (metrics,) if isinstance(metrics, str) else tuple(LISTED if metrics is None else metrics)
        for metric in chosen:
            check_metric(metric, NAMES)
        named = name_configurations(list(self.ledgers))
        if baseline is not None:
            named = select_baseline(self.trials, named, baseline)
        return with_units(compare_to_baseline(self, named, chosen))

    def proposals(self) -> pd.DataFrame:
        """Return what searches proposed, of each search the best first, scored on held-out images. Empty without a search."""
        found = rank_proposals(self.searches)
        return with_units(found if len(found) else pd.DataFrame(columns=PROPOSALS))

    def fingerprints(self) -> pd.DataFrame:
        """Return E3's fingerprints of every kind over the noise levels."""
        return with_units(super().fingerprints())

    def log(self, trial: str) -> str:
        """Return the text of a trial's log. Raises UserError if the studies have no such trial."""
        rows = pd.concat([self.trials, self.failed])[["study", "trial"]]
        found = rows.loc[rows["trial"] == trial, "study"]
        if found.empty:
            raise UserError(f"there is no trial '{trial}' in {self.title}: {suggest(trial, rows['trial'])}")
        ledger = next(one for one in self.ledgers if one.study == found.iloc[0])
        return (ledger.folder.read(log_name(trial)) or b"").decode(errors="replace")

    @property
    def plot(self) -> Plots:
        """The report's charts as methods, such as `results.plot.mask_errors()`."""
        return Plots(self)

    def __dir__(self) -> list[str]:
        return list(COMPLETIONS)

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self._summary().items())

    def _repr_html_(self) -> str:
        """Return the summary that a notebook shows."""
        rows = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td style='text-align:left'>{escape(value)}</td></tr>"
            for name, value in self._summary().items()
        )
        return f"<table>{rows}</table>"

    def _summary(self) -> dict[str, str]:
        """Return in words what there is: trials by experiment, failures, data sets, networks, seeds, metrics, searches."""
        counts = self.trials["experiment"].value_counts(sort=False)
        experiments = [f"{counts[name]} of {words}" for name, words in EXPERIMENTS.items() if name in counts]
        summary: dict[str, Any] = {
            "study": self.title,
            "trials complete": f"{len(self.trials)} ({', '.join(experiments)})",
            "trials failed": str(len(self.failed)),
            "data sets": ", ".join(self.trials["dataset"].unique()),
            "networks": ", ".join(self.trials["network"].unique()),
            "seeds": ", ".join(map(str, sorted(self.trials["seed"].unique()))),
            "metrics": ", ".join(self.measured) or "none",
            "searches": ", ".join(
                f"{one.title}: {len(one.tried)} {noun(len(one.tried), 'proposal')}" for one in self.searches
            )
            or "none",
            "tables": ", ".join(f".{name}" for name in COMPLETIONS if name != "plot"),
            "charts": "all of the report, such as .plot.mask_errors()",
        }
        return summary

    def _check_measured(self, metric: str) -> None:
        """Raise UserError if there is no such metric, or if no trial has measured it."""
        check_metric(metric)
        if metric not in self.measured:
            raise UserError(
                f"no trial of {self.title} has measured {metric}: measured are {', '.join(self.measured) or 'none'}"
            )
