"""The best trials of a study, by its ledger."""

import json
import math
from collections import Counter

from diffseg.errors import UserError
from diffseg.evaluation.pareto import front, losses
from diffseg.evaluation.registry import METRICS
from diffseg.rows import Row
from studies.definition.study import Study
from studies.definition.trial import Trial
from studies.store.ledger import Ledger

COLUMNS = ["status", "dataset", "experiment", "network", "seed", "test_images", "left_out", "scored_on", *METRICS]


def best_trials(study: Study, ledger: Ledger, metric: str, pareto: bool) -> list[Row]:
    """Return the complete trials that were scored on test images, the best of each data set by the metric first.

    With `pareto`, only those that no other trial of the data set dominates in `pareto_metrics`. Trials of a search, which are
    scored on held-out training images, are left out; the trials that confirm its best proposals are included.

    Columns: trial, dataset, experiment, network, seed, configuration (the variant, or the proposal's number and settings),
    scored_on, test_images, METRICS, and left_out: the number of test images for which a metric is NaN and which its mean
    leaves out, by metric.
    """
    known = {trial.name: trial for trial in study.known_trials(ledger)}
    rows = [
        row | {"left_out": json.loads(row["left_out"] or "{}"), "scored_on": "test"}
        for row in ledger.last_rows(COLUMNS)
        if row["status"] == "complete" and _measured(row["iou"])
        if _scored_on(row, known.get(row["trial"])) == "test"
    ]
    if pareto:
        rows = _front(rows, pareto_metrics(study))
    names = name_configurations(study, ledger)
    rows = [row | {"configuration": names.get(row["trial"], "")} for row in rows if _measured(row[metric])]
    loss = METRICS[metric].loss
    return sorted(rows, key=lambda row: (row["dataset"] or "", loss(row[metric])))


def name_configurations(study: Study, ledger: Ledger) -> dict[str, str]:
    """Return the names of the study's variants, and the number and settings of each trial's proposal, with its stage, by trial."""
    if not study.search:
        return study.variants
    from studies.search.proposals import read_proposals  # imports what `status` of most studies needs not
    from studies.search.stages import list_stages

    return study.variants | {
        stage.trial: f"{one.number}: {', '.join(filter(None, (one.label, stage.label)))}"
        for one in read_proposals(ledger)
        for stage in list_stages(study.search, one)
    }


def unconfirmed_searches(study: Study, ledger: Ledger, tested: list[Row]) -> list[str]:
    """Return the names of the trials from which searches start that have no confirming trial among the tested rows."""
    from studies.search.proposals import read_proposals

    confirmed = {row["trial"] for row in tested}
    return [
        start.name
        for start in study.starts
        if not any(
            one.trial in confirmed and one.seed != start.config.seed for one in read_proposals(ledger, start.name)
        )
    ]


def explain_missing(study: Study, ledger: Ledger, metric: str, held_out: bool) -> str:
    """Return a sentence on the trials that a list of the best by a metric lacks, and why; an empty text if it has all.

    held_out: The list has the proposals alone.
    """
    rows = {row["trial"]: row for row in ledger.last_rows(["status", "scored_on", metric])}
    known = {trial.name: trial for trial in study.known_trials(ledger)}
    ended = {name: row for name, row in rows.items() if name in known and row["status"] == "complete"}
    segmenting = {name: row for name, row in ended.items() if known[name].tree.get("experiment") in ("e1", "e2")}
    lacking = sum(not _measured(row[metric]) for row in segmenting.values())
    proposed = sum(_scored_on(row, known[name]) != "test" for name, row in segmenting.items())
    if held_out or unconfirmed_searches(study, ledger, list(rows.values())):  # they are listed
        proposed = 0
    statuses = Counter(rows.get(name, {"status": "waiting"})["status"] for name in known)
    left = [f"{statuses[status]} {status}" for status in ("waiting", "failed", "pruned") if statuses[status]]
    parts = (
        (len(ended) - len(segmenting), "of E3 and E4, which segment no images"),
        (lacking, f"without {metric}, which they have not measured or is undefined there"),
        (proposed, f"scored on held-out training images{', which --held-out lists' if study.starts else ''}"),
    )
    found = [f"{count} {words}" for count, words in parts if count]
    found += [f"{', '.join(left)}, which `diffseg status {study.name}` shows"] if left else []
    return f"trials left out: {'; '.join(found)}" if found else ""


def pareto_metrics(study: Study) -> tuple[str, ...]:
    """Return the metrics of the study's Pareto front: the search's objectives if it has several, else IoU and ECE."""
    if study.starts and study.search and len(study.search.objective) > 1:
        return study.search.objective
    return ("iou", "ece")


def nothing_measured_error(study: str, metric: str | None = None) -> UserError:
    """Return the error for a study without results, or whose results lack a metric."""
    if metric:
        return UserError(
            f"no trial of {study} has measured {metric}: choose another --metric; those of several raters need such masks"
        )
    return UserError(
        f"no trial of {study} has measured a segmentation yet: `diffseg status {study}` shows its progress"
    )


def _scored_on(row: Row, trial: Trial | None) -> str:
    """Return what the ledger says, or the definition if an earlier version did not record it; test if neither does."""
    recorded: str | None = row["scored_on"]
    return recorded or (trial.scored_on if trial else "test")


def _measured(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def _front(rows: list[Row], objective: tuple[str, ...]) -> list[Row]:
    """Return the rows that no other row of the same data set dominates, sorted by their objectives."""
    measured = [(point, row) for row in rows if (point := losses(row, objective))]
    places = []
    for dataset in dict.fromkeys(row["dataset"] for _, row in measured):
        own = [place for place, (_, row) in enumerate(measured) if row["dataset"] == dataset]
        places += [own[place] for place in front([measured[place][0] for place in own])]
    return [measured[place][1] for place in sorted(places, key=lambda place: (measured[place][0], place))]
