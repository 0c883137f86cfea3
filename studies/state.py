"""Where a study stands, from the store alone: no Ray, no torch."""

import json
from collections import Counter
from dataclasses import dataclass

from diffseg.errors import UserError
from studies.ledger import METRICS, Latest, Ledger
from studies.lock import Lock
from studies.progress import Progress, read
from studies.search import proposals
from studies.study import Study, Trial

LINES = 200  # of a table in the terminal, at most: more nobody reads, and they take seconds to lay out
COLUMNS = [*METRICS, "status", "seconds", "error", "log"]
STATUSES = ("complete", "running", "failed", "pruned", "interrupted", "waiting")


@dataclass(frozen=True)
class TrialState:
    trial: str
    status: str  # one of STATUSES
    attempt: int  # the one that runs or ran last
    progress: Progress | None  # of an attempt that has not ended
    row: dict  # of the last attempt in the ledger; empty if there is none

    @property
    def share(self) -> float:
        """How much of its training is done, 0 to 1."""
        return self.progress.share if self.progress else float(self.status in ("complete", "failed", "pruned"))

    def to_dict(self) -> dict:
        shown = {key: self.row.get(key) for key in (*METRICS, "seconds", "error", "log")}
        return {"trial": self.trial, "status": self.status, "attempt": self.attempt, "done": self.share, **shown}


def states(study: Study, ledger: Ledger, latest: Latest | None = None) -> list[TrialState]:
    """Every trial's state, in the study's order. latest: what whoever asks again and again keeps, with COLUMNS."""
    rows = (latest or Latest(ledger, COLUMNS)).rows()
    held = Lock(ledger.folder).held()
    return [_state(trial.name, ledger, rows.get(trial.name, {}), held) for trial in study.known(ledger)]


def counts(found: list[TrialState]) -> dict[str, int]:
    counted = Counter(state.status for state in found)
    return {status: counted[status] for status in STATUSES}


def _state(trial: str, ledger: Ledger, row: dict, held: bool) -> TrialState:
    progress, attempt = read(ledger.folder.at(f"work/{trial}")), row.get("attempt", 0)
    if progress is not None:  # its attempt has not ended
        return TrialState(
            trial, "running" if held and progress.phase != "stopped" else "interrupted", attempt + 1, progress, row
        )
    return TrialState(trial, row.get("status", "waiting"), attempt, None, row)


def status_table(study: Study, found: list[TrialState]):
    from rich.table import Column, Table

    table = Table(
        Column("trial", overflow="fold"), "status", "done", "IoU", "ECE", "seconds", "error", box=None, pad_edge=False
    )
    told = sorted(found, key=lambda state: state.status in ("complete", "waiting")) if len(found) > LINES else found
    for state in told[:LINES]:
        numbers = [
            number(state.row.get(key), form) for key, form in (("iou", ".3f"), ("ece", ".3f"), ("seconds", ".0f"))
        ]
        table.add_row(state.trial, state.status, f"{state.share:.0%}", *numbers, (state.row.get("error") or ""))
    table.caption = ", ".join(f"{number} {status}" for status, number in counts(found).items() if number)
    table.caption += _rest(found)
    return table


def _rest(rows: list) -> str:
    return f"; {len(rows) - LINES} more lines, which --json shows" if len(rows) > LINES else ""


def named(study: Study, ledger: Ledger, name: str) -> Trial:
    """The trial of that name, or of which it is the beginning or end. Raises UserError unless the name fits just one."""
    known = study.known(ledger)
    fitting = [trial for trial in known if trial.name == name] or [
        trial for trial in known if trial.name.startswith(name) or trial.name.endswith(name)
    ]
    if len(fitting) != 1:
        names = ", ".join(trial.name for trial in fitting or known)
        raise UserError(f"'{name}' fits {len(fitting)} trials of {study.name}: give one of {names}")
    return fitting[0]


def trial_details(study: Study, ledger: Ledger, name: str) -> dict:
    """One trial's configuration, last attempt and the end of its log. Raises UserError unless the name fits just one."""
    trial = named(study, ledger, name)
    (state,) = (state for state in states(study, ledger) if state.trial == trial.name)
    log = ledger.folder.read(f"work/{trial.name}/log.txt") or b""
    tail = log.decode(errors="replace").splitlines()[-40:]
    row = next((row for row in ledger.last() if row["trial"] == trial.name), {})
    shown = {key: value for key, value in row.items() if not key.startswith("config")}
    return {**state.to_dict(), **shown, "config": trial.config.model_dump(mode="json"), "log_tail": tail}


def trained_scaling(ledger: Ledger, trial: Trial):
    """How the training images of a finished trial became numbers. Raises UserError if it has not finished."""
    from diffseg.data.splits import Scaling

    rows = {row["trial"]: row for row in ledger.last(["status", "scaling"])}
    row = rows.get(trial.name, {"status": "waiting"})
    if row["status"] != "complete":
        raise UserError(f"trial {trial.name} is {row['status']}: `diffseg run {ledger.study}` has to end it first")
    return Scaling(**json.loads(row["scaling"]))


def trial_text(details: dict) -> str:
    from rich.markup import escape

    rest = {key: value for key, value in details.items() if key not in ("config", "log_tail", "versions")}
    lines = [f"[bold]{key}[/]: {escape(str(value))}" for key, value in rest.items() if value is not None]
    return "\n".join(
        [
            *lines,
            "[bold]config[/]:",
            escape(json.dumps(details["config"], indent=1)),
            "[bold]log[/]:",
            *map(escape, details["log_tail"]),
        ]
    )


def best_trials(ledger: Ledger, metric: str, pareto: bool) -> list[dict]:
    """Complete trials with a segmentation, best first for each data set; with pareto those beaten by none in IoU and ECE.

    Those of a search, which are measured on held-out training images, are not among them.
    """
    columns = ["status", "dataset", "experiment", "network", "seed", *METRICS]
    searched = {one.trial for one in proposals(ledger) if one.config and one.config.data.held_out}
    rows = [row for row in ledger.last(columns) if row["status"] == "complete" and row["iou"] is not None]
    rows = [row for row in rows if row["trial"] not in searched]
    if not rows:
        raise UserError(
            f"no trial of {ledger.study} has measured a segmentation yet: `diffseg status {ledger.study}` tells how far it is"
        )
    if pareto:
        rows = _front(rows)
    rows = [row for row in rows if row[metric] is not None]
    sign = -1 if METRICS[metric] else 1
    return sorted(rows, key=lambda row: (row["dataset"], sign * row[metric]))


def best_table(rows: list[dict], metric: str):
    from rich.table import Column, Table

    metrics = dict.fromkeys((metric, "iou", "dice", "ece", "brier", "nll"))
    table = Table("data set", Column("trial", overflow="fold"), *metrics, box=None, pad_edge=False)
    for row in rows[:LINES]:
        table.add_row(row["dataset"], row["trial"], *(number(row[metric], ".3f") for metric in metrics))
    table.caption = _rest(rows).removeprefix("; ") or None
    return table


def _front(rows: list[dict]) -> list[dict]:
    """Those that none beats. Whoever beats a row comes before it here, and so does one of the front."""
    kept: list[dict] = []
    for row in sorted(rows, key=lambda row: (-row["iou"], row["ece"])):
        if not any(_beats(other, row) for other in kept):
            kept.append(row)
    return kept


def _beats(one: dict, other: dict) -> bool:
    """Whether one trial is at least as good in IoU and ECE on the same data, and better in one of them."""
    same = one["dataset"] == other["dataset"] and one["iou"] >= other["iou"] and one["ece"] <= other["ece"]
    return same and (one["iou"], one["ece"]) != (other["iou"], other["ece"])


def number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
