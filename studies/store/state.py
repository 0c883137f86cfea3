"""The state of a study's trials, read from the store alone, without Ray or torch."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from diffseg.errors import UserError
from diffseg.evaluation.registry import METRICS
from diffseg.rows import Row
from diffseg.suggestions import find_nearest
from studies.definition.study import Study
from studies.definition.trial import Trial
from studies.store.following import read_log
from studies.store.latest import LatestRows
from studies.store.ledger import Ledger
from studies.store.lock import Lock
from studies.store.progress import Progress, read_progress

NAMED = 10  # trials in a message, at most
NEAREST = 5  # of them, where no name fits
LOG_LINES = 40  # of a trial's log, the last ones
COLUMNS = [*METRICS, "status", "steps", "seconds", "error", "log"]
STATUSES = ("complete", "running", "failed", "pruned", "interrupted", "waiting")


@dataclass(frozen=True)
class TrialState:
    """The state of one trial."""

    trial: str
    status: str  # one of STATUSES
    attempt: int  # the one that is running, or the last one
    scored_on: str  # the images of the metrics: test or held-out
    progress: Progress | None  # of an attempt that has not ended
    row: Row  # of the last attempt in the ledger; empty if there is none
    steps: int | None  # training steps in all; None if the definition does not say

    @property
    def share(self) -> float | None:
        """The share of the training that is done, 0 to 1; None if the trial failed, since it does not say when."""
        if self.progress:
            return self.progress.share
        if self.status == "pruned":
            return min(1.0, (self.row.get("steps") or 0) / self.steps) if self.steps else None
        return {"complete": 1.0, "failed": None}.get(self.status, 0.0)

    @property
    def work_done(self) -> float:
        """The share of the work that is not left to do, 0 to 1. It is 1 once the trial has ended, even if it failed."""
        return self.progress.share if self.progress else float(self.status in ("complete", "failed", "pruned"))

    def to_dict(self) -> dict[str, Any]:
        """Return the state as `status --json` shows it."""
        shown = {key: self.row.get(key) for key in (*METRICS, "seconds", "error", "log")}
        named = {"trial": self.trial, "status": self.status, "attempt": self.attempt, "scored_on": self.scored_on}
        return {**named, "done": self.share, **shown}


def trial_states(study: Study, ledger: Ledger, latest: LatestRows | None = None) -> list[TrialState]:
    """Return every trial's state, in the study's order. A caller that asks repeatedly keeps `latest`, with COLUMNS."""
    rows = (latest or LatestRows(ledger, COLUMNS)).rows()
    held = Lock(ledger.folder).is_held()
    return [_state(trial, ledger, rows.get(trial.name, {}), held) for trial in study.known_trials(ledger)]


def count_statuses(found: list[TrialState]) -> dict[str, int]:
    """Return the number of trials of every status in STATUSES."""
    counted = Counter(state.status for state in found)
    return {status: counted[status] for status in STATUSES}


def _state(trial: Trial, ledger: Ledger, row: Row, held: bool) -> TrialState:
    progress, attempt = read_progress(ledger.folder.at(f"work/{trial.name}")), row.get("attempt", 0)
    status = row.get("status", "waiting")
    row = row | {"log": ledger.log_path(trial.name)} if row.get("log") else row
    if progress is not None:  # its attempt has not ended
        status, attempt = "running" if held and progress.phase != "stopped" else "interrupted", attempt + 1
    return TrialState(trial.name, status, attempt, trial.scored_on, progress, row, trial.steps)


def find_trial(study: Study, ledger: Ledger, name: str) -> Trial:
    """Return the trial of this name, or whose name begins or ends with it. Raises UserError unless exactly one fits."""
    known = study.known_trials(ledger)
    fitting = [trial for trial in known if trial.name == name] or [
        trial for trial in known if trial.name.startswith(name) or trial.name.endswith(name)
    ]
    if len(fitting) != 1:
        raise _not_one_error(study.name, name, [trial.name for trial in known], [trial.name for trial in fitting])
    return fitting[0]


def _not_one_error(study: str, name: str, known: list[str], fitting: list[str]) -> UserError:
    """Return the error for a name that fits no trial, with the nearest names, or several trials."""
    near = fitting or _find_nearest(name, known)
    more = f"; `diffseg status {study}` lists all {len(known)}" if len(known) > len(near[:NAMED]) else ""
    if not fitting:
        there = f"the nearest are {', '.join(near)}" if near else "it has none yet"
        return UserError(f"no trial of {study} has a name that is, begins or ends with '{name}': {there}{more}")
    return UserError(f"'{name}' fits {len(fitting)} trials of {study}: give one of {', '.join(near[:NAMED])}{more}")


def _find_nearest(name: str, known: list[str]) -> list[str]:
    """Return the nearest names, without their digests unless the name has one: most users leave it out."""
    if re.search("-[0-9a-f]{8}$", name):
        return find_nearest(name, known, NEAREST, cutoff=0)
    stems = {one.rpartition("-")[0]: one for one in known}
    return [stems[stem] for stem in find_nearest(name, stems, NEAREST, cutoff=0)]


def trial_details(study: Study, ledger: Ledger, name: str) -> dict[str, Any]:
    """Return a trial's state, configuration, last attempt and the end of its log. Raises UserError like `find_trial`."""
    trial = find_trial(study, ledger, name)
    (state,) = (state for state in trial_states(study, ledger) if state.trial == trial.name)
    tail = read_log(ledger, trial.name)[-LOG_LINES:]
    row = next((row for row in ledger.last_rows() if row["trial"] == trial.name), {})
    shown = {key: value for key, value in row.items() if not key.startswith("config_") and key not in ("config", "log")}
    return {**state.to_dict(), **shown, "config": trial.config.model_dump(mode="json"), "log_tail": tail}


def finished_row(ledger: Ledger, trial: str) -> Row:
    """Return `scaling`, `labels`, `checkpoint` and `risk_threshold` of a trial. Raises UserError if it is not complete."""
    rows = {
        row["trial"]: row for row in ledger.last_rows(["status", "scaling", "labels", "checkpoint", "risk_threshold"])
    }
    row: Row = rows.get(trial, {"status": "waiting"})
    if row["status"] != "complete":
        command = f"`diffseg retry {ledger.study}`" if row["status"] == "failed" else f"`diffseg run {ledger.study}`"
        raise UserError(f"trial {trial} is {row['status']}: {command} has to end it first")
    return row
