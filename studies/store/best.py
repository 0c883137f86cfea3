"""The best trials of a study, from its ledger."""

import json
import math

from diffseg.errors import UserError
from diffseg.evaluation.pareto import front, losses
from diffseg.evaluation.registry import METRICS
from studies.definition.study import Study
from studies.definition.trial import Trial
from studies.search.proposals import read_proposals
from studies.store.ledger import Ledger

COLUMNS = ["status", "dataset", "experiment", "network", "seed", "test_images", "left_out", "scored_on", *METRICS]


def best_trials(study: Study, ledger: Ledger, metric: str, pareto: bool) -> list[dict]:
    """Return the complete trials that were scored on test images, of each data set the best by the metric first.

    With pareto only those that no other of the data set beats in the search's objectives, if it has several, else in IoU
    and ECE. Trials of a search, which are scored on held-out training images, are not among them; those that confirm its
    best proposals are. Columns: trial, dataset, experiment, network, seed, configuration (its variant, or the number of its
    proposal and what that sets), scored_on, test_images, METRICS, and left_out: of metrics that are NaN for some test images
    and are means over the others, how many these are.
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
    names = study.variants | {one.trial: f"{one.number}: {one.label}" for one in read_proposals(ledger) if one.trial}
    rows = [row | {"configuration": names.get(row["trial"], "")} for row in rows if _measured(row[metric])]
    loss = METRICS[metric].loss
    return sorted(rows, key=lambda row: (row["dataset"] or "", loss(row[metric])))


def unconfirmed_searches(study: Study, ledger: Ledger, tested: list[dict]) -> list[str]:
    """The searches of a study, by the trials that they start from, that have no confirmed trial among the tested."""
    confirmed = {row["trial"] for row in tested}
    return [
        start.name
        for start in study.starts
        if not any(
            one.trial in confirmed and one.seed != start.config.seed for one in read_proposals(ledger, start.name)
        )
    ]


def pareto_metrics(study: Study) -> tuple[str, ...]:
    """The metrics that a Pareto front of the study is of."""
    several = study.starts and len(study.search.objective) > 1
    return study.search.objective if several else ("iou", "ece")


def nothing_measured_error(study: str, metric: str | None = None) -> UserError:
    """metric: the one that other trials of the study lack, if they have measured something."""
    if metric:
        return UserError(
            f"no trial of {study} has measured {metric}: choose another --metric; those of several raters need such masks"
        )
    return UserError(
        f"no trial of {study} has measured a segmentation yet: `diffseg status {study}` tells how far it is"
    )


def _scored_on(row: dict, trial: Trial | None) -> str:
    """By the ledger, or by the definition where an earlier version did not record it. trial: None if it is not defined."""
    return row["scored_on"] or (trial.scored_on if trial else "test")


def _measured(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def _front(rows: list[dict], objective: tuple[str, ...]) -> list[dict]:
    """Return the rows that no other row of the same data set dominates, sorted by their objectives."""
    measured = [(point, row) for row in rows if (point := losses(row, objective))]
    places = []
    for dataset in dict.fromkeys(row["dataset"] for _, row in measured):
        own = [place for place, (_, row) in enumerate(measured) if row["dataset"] == dataset]
        places += [own[place] for place in front([measured[place][0] for place in own])]
    return [measured[place][1] for place in sorted(places, key=lambda place: (measured[place][0], place))]
