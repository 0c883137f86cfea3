"""What a model card describes: a complete trial of E1 or E2, and the trials that repeat it with other seeds."""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from analysis.attempts import read_last_attempts
from analysis.frames import records, with_units
from analysis.measurements import Sample
from analysis.series import name_series
from analysis.tables import Tables
from diffseg.config import Config
from diffseg.errors import UserError
from studies.definition.study import Study
from studies.definition.trial import Trial, trial_name
from studies.engine.files import TRAINED_BY
from studies.store.classes import ALL
from studies.store.ledger import Ledger
from studies.store.state import find_trial, trial_states

NO_NETWORK = (
    "log.txt",
    TRAINED_BY,
)  # files that `diffseg clean` leaves in the folder of a trial whose network it removes
SEGMENTING = ("e1", "e2")


@dataclass(frozen=True)
class Subject:
    """A complete trial of E1 or E2 with what the ledger has of it."""

    ledger: Ledger
    trial: str
    config: Config
    row: dict[str, Any]  # of its last attempt in `trials`; None for what is missing
    tables: Tables  # of the trial and of those that differ in their seed only
    configurations: int  # that were scored on the same images of the data set
    has_network: bool  # whether the store has what predicts

    @property
    def seeds(self) -> list[int]:
        """The seeds with which the configuration was trained."""
        return sorted(int(seed) for seed in self.tables.trials["seed"])

    @cached_property
    def alone(self) -> Tables:
        """The tables of the trial alone."""
        trials = self.tables.trials
        return self.tables.part(trials[trials["trial"] == self.trial])

    @cached_property
    def tested(self) -> pd.Series:
        """The patient or volume of each image that the metrics are of, by name; None where it is not known."""
        rows = self.alone.frame("images", ["image", "group"], of_class=None).drop_duplicates("image")
        return rows.set_index("image")["group"]

    @property
    def classes(self) -> list[str]:
        """The names of the classes, if there are several."""
        names = self.config.data.class_names
        return list(names) if len(names) > 1 else []

    def sample(self, metric: str, of_class: str = ALL) -> Sample | None:
        """Return the trial's metric; None if it has not measured it."""
        return self.tables.measurements.sample(self.alone.trials, metric, of_class)

    def sample_seeds(self, metric: str, of_class: str = ALL) -> Sample | None:
        """Return the metric of all seeds of the configuration; None if none has measured it."""
        return self.tables.measurements.sample(self.tables.trials, metric, of_class)

    def read_json(self, column: str) -> dict[str, Any]:
        """Return a column that holds a JSON object, which reading the ledger has checked; empty if it is missing."""
        found: dict[str, Any] = json.loads(self.row[column] or "{}")
        return found


def load_subject(study: Study, ledger: Ledger, name: str) -> Subject:
    """Read a trial by its name, or the beginning or end of it.

    Raises UserError if not exactly one trial fits, if it segments nothing, or if it is not complete.
    """
    trial = find_trial(study, ledger, name)
    if trial.config.experiment not in SEGMENTING:
        raise UserError(
            f"trial {trial.name} is of {trial.config.experiment.upper()}, which segments nothing: give a trial of E1 or E2"
        )
    rows = read_last_attempts(ledger)
    own = rows[rows["trial"] == trial.name]
    if own.empty or own["status"].iloc[0] != "complete":
        raise _incomplete_error(study, ledger, trial)
    (row,) = records(own)
    alike = rows[(rows["configuration"] == row["configuration"]) | (rows["trial"] == trial.name)]
    complete = with_units(name_series(alike[alike["status"] == "complete"], [ledger]))
    return Subject(
        ledger=ledger,
        trial=trial.name,
        config=trial.config,
        row=row,
        tables=Tables((ledger,), complete, alike[alike["status"] == "failed"]),
        configurations=_count_configurations(rows, row),
        has_network=all(_has_network(ledger, one) for one in _list_networks(trial)),
    )


def _incomplete_error(study: Study, ledger: Ledger, trial: Trial) -> UserError:
    """Return the error for a trial that is not complete, with the command that helps."""
    status = next(state.status for state in trial_states(study, ledger) if state.trial == trial.name)
    if status == "complete":  # by the columns that `trial_states` reads
        return UserError(
            f"the ledger's file of trial {trial.name} is damaged: `diffseg run {study.name}` repeats the trial"
        )
    remedies = {
        "failed": f"`diffseg retry {study.name}` runs it again",
        "pruned": f"its search ended it early, and `diffseg best {study.name}` lists complete ones",
    }
    remedy = remedies.get(status, f"`diffseg run {study.name}` completes it")
    return UserError(f"trial {trial.name} is {status}, and a card describes a complete one: {remedy}")


def _count_configurations(rows: pd.DataFrame, row: dict[str, Any]) -> int:
    """Return the number of configurations that were scored on the same images as the trial of this row."""
    alike = (rows["status"] == "complete") & rows["experiment"].isin(SEGMENTING)
    alike &= (rows["dataset"] == row["dataset"]) & (rows["scored_on"] == row["scored_on"])
    return int(rows.loc[alike, "configuration"].fillna(rows["trial"]).nunique())


def _list_networks(trial: Trial) -> list[str]:
    """Return the trials whose networks predict: the members of a deep ensemble, or the trial itself."""
    return [trial_name(member) for member in trial.config.members()] or [trial.name]


def _has_network(ledger: Ledger, trial: str) -> bool:
    """Return whether the folder of a trial holds more than its log."""
    return any(name not in NO_NETWORK for name in ledger.folder.at(f"work/{trial}").files())
