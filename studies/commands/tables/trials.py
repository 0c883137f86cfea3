"""The trials of a study: how far they are (`status`), and the best of them (`best`)."""

from collections.abc import Iterator
from itertools import groupby

from rich.console import Group, RenderableType
from rich.text import Text

from diffseg.rows import Row
from studies.commands.tables.cells import MOST_ROWS, bytes_text, duration, joined, more_rows, number
from studies.commands.tables.named_table import NamedTable
from studies.definition.distinctions import distinguish
from studies.definition.study import Study
from studies.store.best import name_configurations
from studies.store.ledger import Ledger
from studies.store.sizes import Sizes
from studies.store.state import TrialState, count_statuses

ALWAYS_SHOWN = ("iou", "dice", "ece", "brier", "nll")  # metrics of `best`, after the one that it sorts by


def status_table(study: Study, ledger: Ledger, found: list[TrialState], sizes: Sizes | None = None) -> NamedTable:
    """Return a row for each trial, and the counts by status as the caption, with the sizes if they are given.

    Of more than MOST_ROWS trials, those that are running or have failed come first.
    """
    mixed = any(state.scored_on != "test" for state in found)
    many = len(found) > MOST_ROWS
    shown = (sorted(found, key=lambda state: state.status in ("complete", "waiting")) if many else found)[:MOST_ROWS]
    differing = distinguish_trials(study, ledger, [state.trial for state in shown])
    columns = ("trial", "status", "done", "scored on", "IoU", "ECE", "time", *(["size"] if sizes else []))
    table = NamedTable(*columns, remark="what differs, and errors")
    for state in shown:
        metrics = [number(state.row.get(key), ".3f") for key in ("iou", "ece")]
        seconds = state.row.get("seconds")
        cells = [state.status, number(state.share, ".0%"), state.scored_on if mixed else "", *metrics]
        remark = joined(differing[state.trial], state.row.get("error") or "")
        cells.append("" if seconds is None else duration(seconds))
        cells += [bytes_text(sizes.trials.get(state.trial, 0))] if sizes else []
        table.add_row(state.trial, *cells, remark=remark)
    counted = ", ".join(f"{count} {status}" for status, count in count_statuses(found).items() if count)
    table.caption = joined(
        counted, _describe_sizes(sizes) if sizes else "", more_rows(found), *_describe_searches(study, ledger)
    )
    return table


def _describe_searches(study: Study, ledger: Ledger) -> list[str]:
    """Count the refused proposals, and say why searches have ended early. Only a study with searches imports what they need."""
    if not study.search:
        return []
    from studies.search.proposals import read_proposals
    from studies.search.stopping import explain_ends

    reasons = [one.reason.removeprefix("refused: ") for one in read_proposals(ledger) if one.reason]
    last = f"{len(reasons)} proposals refused, the last since {reasons[-1]}" if reasons else ""
    return [last, *explain_ends(study, ledger)]


def _describe_sizes(sizes: Sizes) -> str:
    """Return a study's sizes as a clause."""
    parts = (("trials", sum(sizes.trials.values())), ("tables", sizes.tables), ("other files", sizes.other))
    listed = ", ".join(f"{name} {bytes_text(size)}" for name, size in parts)
    return f"{bytes_text(sizes.total)} on disk ({listed})"


def distinguish_trials(study: Study, ledger: Ledger, names: list[str]) -> dict[str, str]:
    """Return in which settings the trials of these names differ (`distinguish`), after the names of their configurations."""
    trees = {trial.name: trial.tree for trial in study.known_trials(ledger)}
    settings, given = distinguish({name: trees.get(name, {}) for name in names}), name_configurations(study, ledger)
    return {name: joined(given.get(name, ""), settings[name]) for name in names}


def best_tables(rows: list[Row], metric: str, differing: dict[str, str]) -> Group:
    """Return a table of the trials scored on test images, and below it one of the proposals scored on held-out images.

    Each data set has tables of its own.

    Args:
        rows: Those of `best_trials` and `best_proposals`.
        metric: The one that they are sorted by.
        differing: What distinguishes the trials, by their names.
    """
    tested = [row for row in rows if row["scored_on"] == "test"]
    proposed = [row for row in rows if row["scored_on"] != "test"]
    return Group(*_tested_tables(tested, metric, differing), *_proposal_tables(proposed, metric))


def _tested_tables(rows: list[Row], metric: str, differing: dict[str, str]) -> Iterator[RenderableType]:
    metrics = dict.fromkeys((metric, *ALWAYS_SHOWN))
    for dataset, own in groupby(rows[:MOST_ROWS], lambda row: row["dataset"] or ""):
        yield Text(f"{dataset}, scored on the test images", style="bold")
        table = NamedTable("trial", *metrics, remark="what differs")
        for row in own:
            table.add_row(row["trial"], *(_mean(row, name) for name in metrics), remark=differing[row["trial"]])
        yield table
        yield ""
    left_out = any(row["left_out"].get(name) for row in rows[:MOST_ROWS] for name in metrics)
    meaning = "(n of N): mean over n of N images, since the others are NaN" if left_out else ""
    if notes := joined(meaning, more_rows(rows)):
        yield Text(notes, style="italic")


def _listed_metrics(rows: list[Row], metric: str) -> list[str]:
    """Return the metrics that get a column: the one that sorts, the objectives, and those that are always shown."""
    objectives = [name for row in rows for name in row["objective"].split(", ")]
    return list(dict.fromkeys((metric, *objectives, *ALWAYS_SHOWN)))


def _mean(row: Row, metric: str) -> str:
    """Format a mean, followed by its number of images if some are left out."""
    missing, value = row["left_out"].get(metric), number(row[metric], ".3f")
    return f"{value} ({row['test_images'] - missing} of {row['test_images']})" if missing and value else value


def _estimate(row: Row) -> str:
    """Format a proposal's estimate and its standard deviation; empty where only means are known."""
    deviation = number(row["deviation"], ".3f")
    return f"{number(row['estimate'], '.3f')} ± {deviation}" if deviation else ""


def _proposal_tables(rows: list[Row], metric: str) -> Iterator[RenderableType]:
    if not rows:
        return
    yield Text(
        "Proposals, scored on held-out training images with one seed: do not compare them with test images. "
        "Rank 1 is the best by the estimate, the search's first objective shrunk by its uncertainty.",
        style="bold",
    )
    metrics = _listed_metrics(rows, metric)
    table = NamedTable("trial", "rank", "estimate", "number", "from", "status", *metrics, remark="settings")
    for row in rows[:MOST_ROWS]:
        rank = "" if row["rank"] is None else str(int(row["rank"]) + 1)
        cells = [
            rank,
            _estimate(row),
            str(row["number"]),
            row["source"],
            row["status"],
            *(number(row[name], ".3f") for name in metrics),
        ]
        table.add_row(row["trial"] or "none", *cells, remark=joined(row["settings"], row["error"] or ""))
    table.caption = more_rows(rows)
    yield table
