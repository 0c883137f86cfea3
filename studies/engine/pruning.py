"""Asynchronous successive halving (Li et al., 2020) in its stopping form, by evidence: a trial that is behind ends itself.

A rung is one of `training.evaluations`, shares of the steps that are the same in all proposals. Trials of any length are compared
there, after the same share of their training, by the search's objectives on the same held-out images,
paired. A trial ends if 1/n of the trials there, rounded up, are ahead of it with the search's certainty. With several
objectives, it ends if as many are better by non-dominated rank, and one is ahead with that certainty in every objective.
Metrics that are not means over images, such as the pooled ECE, are compared by their values alone. Running trials leave these
values in the ledger, so the rule needs no coordinator and survives every restart.
"""

from diffseg.evaluation.pareto import losses
from diffseg.evaluation.registry import METRICS
from diffseg.rows import Row
from studies.search.evidence import Leads, Scores, collect_scores, find_evidence
from studies.search.search import Rungs
from studies.store.ledger import Ledger


def record_rung(rungs: Rungs, ledger: Ledger, trial: str, step: int, rows: list[Row]) -> None:
    """Record the metrics of a trial at the rung of a step, and the objectives of each image.

    rows: What `Hooks.on_evaluation` receives.
    """
    columns = ("metric", "image", "group", "value")
    kept = [row for row in rows if "image" not in row or row["metric"] in rungs.objective]
    key = {"search": rungs.search, "step": step, "trial": trial, "place": rungs.steps.index(step)}
    ledger.record("rungs", [key | {name: row.get(name) for name in columns} for row in kept])


def reason_to_prune(rungs: Rungs, ledger: Ledger, trial: str, step: int) -> str | None:
    """Return why a recorded trial has to end at a rung; None if it continues."""
    if not rungs.reduction:
        return None
    rows, place = dict[str, list[Row]](), rungs.steps.index(step)
    for row in ledger.records("rungs", rungs.search):
        if row["place"] == place:
            rows.setdefault(row["trial"], []).append(row)
    reached = {name: _read_scores(own, rungs.objective) for name, own in rows.items()}
    found = find_evidence(rungs, trial, reached)
    if found is None:
        return None
    other, leads = found
    grouped = (reached[other] or reached[trial] or Scores((), ())).grouped
    return f"pruned at step {step}: {_describe(rungs.objective, other, leads, grouped)}"


def _read_scores(rows: list[Row], objective: tuple[str, ...]) -> Scores | None:
    means = {row["metric"]: row["value"] for row in rows if row["image"] is None}
    if (point := losses(means, objective)) is None:
        return None
    return collect_scores(point, [row for row in rows if row["image"] is not None], objective)


def _describe(objective: tuple[str, ...], other: str, leads: Leads, grouped: bool) -> str:
    """Return by how much a trial is behind another one, with the standard error."""
    if not leads:
        return f"it has not measured {' and '.join(objective)}, and {other} has"
    unit = "patients or volumes" if grouped else "images"
    words = [
        f"{lead.mean:.3g} ± {lead.error:.2g} in {metric} on {lead.units} {unit} (probability {lead.probability:.3f})"
        if lead.units
        else f"{lead.mean:.3g} in {metric}{', which is pooled' if METRICS[metric].pooled else ''}"
        for metric, lead in zip(objective, leads, strict=True)
    ]
    return f"behind {other} by {' and by '.join(words)}"
