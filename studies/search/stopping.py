"""When a search ends before its budget: the rules of a study file's table [search.stop], computed from the ledger alone.

    [search.stop]
    hours = 8                  # during which at least one of its trials ran, in all sessions together
    gpu_hours = 20             # of its trials together
    without_improvement = 15   # drawn proposals, complete or pruned, since the best one (of several objectives: a new front)
    failures = 3               # trials that failed one after another for the same reason

A search that has had enough proposes nothing more, finishes what runs, and confirms its best. One that gives up after failures
confirms nothing. With a larger limit the same command continues. A running trial counts once it has ended. A search also ends
when all that is drawn from its space has been tried.
"""

import datetime
import re
from collections.abc import Iterable, Mapping
from typing import Any

from diffseg.evaluation.pareto import Point
from studies.definition.study import Study
from studies.search.history import EvaluatedProposal, EvaluatedSearch, Rows, read_searches
from studies.search.priors import Prior
from studies.search.search import Search
from studies.search.stages import list_ended
from studies.store.ledger import Ledger

HOPELESS = (
    5  # trials without a value, and none with one, after which a search gives up, unless stop.failures says otherwise
)
NO_GPU = "search.stop.gpu_hours limits the hours of GPUs, but trials get none here"
COLUMNS = ("status", "error", "seconds", "gpu_seconds", "finished")  # of the ledger's trials, which the rules look at


def reason_to_stop(search: Search, name: str, tried: list[EvaluatedProposal], rows: Rows) -> str | None:
    """Return why a search has had enough before its budget is used up; None if it continues.

    Args:
        name: Of the trial that the search starts from.
        tried: Its proposals, in their order.
        rows: Of the trials in the ledger, with COLUMNS.
    """
    stop, own = search.stop, [row for one in tried for row in list_ended(one.stages, rows)]
    if len(tried) >= search.budget:
        return None
    if stop.hours is not None and (hours := measure_hours(own)) >= stop.hours:
        reason, key = f"its trials ran for {hours:.3g} h", "hours"
    elif stop.gpu_hours is not None and (hours := _sum(own, "gpu_seconds") / 3600) >= stop.gpu_hours:
        reason, key = f"its trials took {hours:.3g} GPU hours", "gpu_hours"
    elif stop.without_improvement is not None and (count := count_since_best(tried)) >= stop.without_improvement:
        reason = f"the last {count} proposals have not improved {' or '.join(search.objective)}"
        key = "without_improvement"
    else:
        return None
    return (
        f"the search of {name} stopped after {len(tried)} of {search.budget} proposals, since {reason}: "
        f"search.stop.{key} is {getattr(stop, key):g}, and with a larger one the same command continues"
    )


def reason_to_give_up(study: str, search: Search, name: str, tried: list[EvaluatedProposal], rows: Rows) -> str | None:
    """Return why a search has no prospect of success: its trials fail, or do not report the objective.

    Returns None if it continues. The arguments are those of `reason_to_stop`, and the study's name.
    """
    ended = [one for one in tried if one.status != "running" and not one.proposal.too_large]
    remedy = f"mend the cause, then `diffseg retry {study}`"
    if search.stop.failures and (error := _common_failure(ended, search.stop.failures, rows)):
        return (
            f"the last {search.stop.failures} trials of {name} failed for the same reason, {error}; {remedy}, "
            "or give a larger search.stop.failures"
        )
    enough = len(ended) >= min(search.stop.failures or HOPELESS, search.budget)
    if all(one.status == "refused" for one in tried) and (enough or len(tried) >= search.budget):
        reason = str(tried[-1].proposal.reason).removeprefix("refused: ")
        return (
            f"all {len(tried)} proposals of {name} were refused, the last since {reason}; give a space, a start and limits that "
            "allow some, and a new --name"
        )
    if not enough or not all(one.infeasible for one in ended):
        return None
    if complete := [one for one in ended if one.status == "complete"]:
        objective = " and ".join(search.objective)
        return (
            f"no trial of {name} reports {objective} ({complete[-1].proposal.trial} is complete without): "
            "give another --objective, and a new --name"
        )
    last = ended[-1]
    reason = last.proposal.reason or f"failed: {last.combine_rows(rows)['error']}"
    return f"all {len(ended)} trials of {name} that have ended failed or were refused, the last {reason}; {remedy}"


def explain_end(study: str, one: EvaluatedSearch, priors: tuple[Prior, ...] = ()) -> str | None:
    """Return why a search has ended before its budget was used up; None if it has not, or is not yet at its end.

    priors: What it takes from other studies.
    """
    search, name = one.history.search, one.history.name
    if reason := reason_to_give_up(study, search, name, one.tried, one.rows):
        return reason
    if not one.tried or any(tried.status == "running" for tried in one.tried):
        return None
    return reason_to_stop(search, name, one.tried, one.rows) or _explain_exhaustion(one, priors)


def _explain_exhaustion(one: EvaluatedSearch, priors: tuple[Prior, ...]) -> str | None:
    """Return that the space has nothing new for a search without running trials; None if it has, or needs not have it."""
    search, name = one.history.search, one.history.name
    if len(one.tried) >= search.budget:
        return None
    from studies.search.sampling import DRAWS, Sampler  # Optuna, which `status` of other searches does not need

    if Sampler(search, name, one.history.start, priors).propose(one.tried):
        return None
    return (
        f"the search of {name} stopped after {len(one.tried)} of {search.budget} proposals, since all {DRAWS} that were drawn "
        "next had been tried: for more, give a wider search.space under a new --name"
    )


def explain_ends(study: Study, ledger: Ledger) -> list[str]:
    """Return why searches of a study have ended early, a sentence for each that has."""
    ends = (
        explain_end(study.name, one, study.priors.get(one.history.name, ()))
        for one in read_searches(study, ledger, COLUMNS)
    )
    return list(filter(None, ends))


def measure_hours(rows: Iterable[Mapping[str, Any]]) -> float:
    """Return the hours during which at least one of some trials ran.

    Seconds that a trial took before its session was killed count as if they had preceded those after it at once.
    """
    busy, until = datetime.timedelta(), datetime.datetime.min.replace(tzinfo=datetime.UTC)
    ends = [(row["finished"], datetime.timedelta(seconds=row["seconds"])) for row in rows if row.get("seconds")]
    for begin, finished in sorted((end - took, end) for end, took in ends if end):
        busy += max(datetime.timedelta(), finished - max(begin, until))
        until = max(until, finished)
    return busy / datetime.timedelta(hours=1)


def count_since_best(tried: list[EvaluatedProposal]) -> int:
    """Return how many drawn proposals, complete or pruned, have come since the last one that improved.

    A proposal improves if no earlier one is at least as good in all objectives. Only proposals that may be the best count as
    good.
    """
    best: list[Point] = []
    count = 0
    for one in tried:
        if one.losses and one.eligible and not any(_covers(other, one.losses) for other in best):
            best = [other for other in best if not _covers(one.losses, other)] + [one.losses]
            count = 0
        elif one.status in ("complete", "pruned") and not one.proposal.tried_first:
            count += 1
    return count


def _covers(one: Point, other: Point) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))


def _common_failure(ended: list[EvaluatedProposal], count: int, rows: Rows) -> str | None:
    """Return the last error if the last `count` trials failed with the same one, up to its numbers. Refused ones had no trial."""
    trials = [one for one in ended if one.status != "refused"][-count:]
    if len(trials) < count or any(one.status != "failed" for one in trials):
        return None
    errors = [str(one.combine_rows(rows)["error"]) for one in trials]
    same = len({re.sub(r"\d[\d.,e+-]*", "0", error) for error in errors}) == 1
    return errors[-1] if same else None


def _sum(rows: list[dict[str, Any]], column: str) -> float:
    return float(sum(row.get(column) or 0.0 for row in rows))
