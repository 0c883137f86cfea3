"""The trials of a study: how far they are (`status`), one in detail (`show`), the best of them (`best`)."""

import json

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from diffseg.evaluation.registry import METRICS
from diffseg.rows import Row
from studies.commands.tables.cells import MOST_ROWS, more_rows, name_column, number, plain_table
from studies.store.state import TrialState, count_statuses

ALWAYS_SHOWN = ("iou", "dice", "ece", "brier", "nll")  # metrics of `best`, after the one that it sorts by


def status_table(found: list[TrialState]) -> Table:
    """Return a row for each trial, and the counts by status as the caption.

    Of more than MOST_ROWS trials, those that are running or have failed come first.
    """
    mixed = ["scored on"] if any(state.scored_on != "test" for state in found) else []
    table = plain_table(name_column("trial"), "status", "done", *mixed, "IoU", "ECE", "seconds", "error")
    many = len(found) > MOST_ROWS
    shown = sorted(found, key=lambda state: state.status in ("complete", "waiting")) if many else found
    for state in shown[:MOST_ROWS]:
        numbers = [
            number(state.row.get(key), form) for key, form in (("iou", ".3f"), ("ece", ".3f"), ("seconds", ".0f"))
        ]
        scored = [state.scored_on] if mixed else []
        error = escape(state.row.get("error") or "")
        table.add_row(escape(state.trial), state.status, number(state.share, ".0%"), *scored, *numbers, error)
    counted = ", ".join(f"{count} {status}" for status, count in count_statuses(found).items() if count)
    table.caption = "; ".join(filter(None, [counted, more_rows(found)]))
    return table


def trial_text(details: Row) -> str:
    """Return the details of a trial (`trial_details`) as lines: values, configuration, end of the log."""
    values = {key: value for key, value in details.items() if key not in ("config", "log_tail", "versions")}
    lines = [f"[bold]{key}[/]: {escape(str(value))}" for key, value in values.items() if value is not None]
    config, log = escape(json.dumps(details["config"], indent=1)), map(escape, details["log_tail"])
    return "\n".join([*lines, "[bold]config[/]:", config, "[bold]log[/]:", *log])


def best_tables(rows: list[Row], metric: str) -> Group:
    """Return a table of the trials scored on test images, and below it one of the proposals scored on held-out images.

    rows: of `best_trials` and `best_proposals`. metric: the one that they are sorted by.
    """
    tested = [row for row in rows if row["scored_on"] == "test"]
    proposed = [row for row in rows if row["scored_on"] != "test"]
    tables = [_tested_table(tested, metric)] if tested else []
    return Group(*tables, *([_proposal_table(proposed, metric)] if proposed else []))


def _tested_table(rows: list[Row], metric: str) -> Table:
    metrics = dict.fromkeys((metric, *ALWAYS_SHOWN))
    named = ["configuration"] if any(row["configuration"] for row in rows) else []
    table = plain_table("data set", name_column("trial"), *map(name_column, named), *metrics)
    for row in rows[:MOST_ROWS]:
        words = [row["configuration"]] if named else []
        cells = [row["dataset"] or "", row["trial"], *words, *(_mean(row, name) for name in metrics)]
        table.add_row(*map(escape, cells))
    left_out = any(row["left_out"].get(name) for row in rows[:MOST_ROWS] for name in metrics)
    meaning = "(n of N): mean over n of N images, since the others are NaN" if left_out else ""
    table.caption = "; ".join(filter(None, ["scored on the test images", meaning, more_rows(rows)]))
    return table


def _listed_metrics(rows: list[Row], metric: str) -> list[str]:
    """Return the metrics that get a column: the one that sorts, the objectives, and the listed ones that a row has."""
    asked = {metric, *(name for row in rows for name in row["objective"].split(", "))}
    return [
        name
        for name, one in METRICS.items()
        if name in asked or (one.listed and any(row[name] is not None for row in rows))
    ]


def _mean(row: Row, metric: str) -> str:
    """Format a mean, followed by its number of images if some are left out."""
    missing, value = row["left_out"].get(metric), number(row[metric], ".3f")
    return f"{value} ({row['test_images'] - missing} of {row['test_images']})" if missing and value else value


def _proposal_table(rows: list[Row], metric: str) -> Table:
    metrics = _listed_metrics(rows, metric)
    named = ("rank", "number", "from", "status", name_column("trial"), "scored on")
    table = plain_table(*named, *metrics, "settings")
    table.title = "Proposals, scored on held-out training images with one seed: do not compare them with test images"
    for row in rows:
        rank = "" if row["rank"] is None else str(int(row["rank"]))
        numbers = [number(row[name], ".3f") for name in metrics]
        words = row["settings"] + (f" ({row['error']})" if row["error"] else "")
        cells = [rank, str(row["number"]), row["source"], row["status"], row["trial"] or "", row["scored_on"]]
        table.add_row(*map(escape, [*cells, *numbers, words]))
    return table
