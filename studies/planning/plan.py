"""What `diffseg run` would do, and about how long it would take."""

import os
from collections.abc import Iterator
from typing import Any

from diffseg.config import Config
from diffseg.diffusion.combinations import find_problems
from search_spaces import WITH_FINGERPRINT
from studies.definition.study import Study
from studies.definition.trial import trial_name
from studies.engine.resources import Resources, allocate
from studies.planning.datasets import check_datasets
from studies.planning.estimate import Cost, estimate_cost, estimate_costs, measure_flops_per_second
from studies.search.proposals import read_proposals
from studies.store.ledger import Ledger

GPU_FLOPS = 2e13  # a cautious guess of a GPU's speed, which is not measured before the GPU is used


def plan(study: Study, ledger: Ledger, resources: Resources) -> dict[str, Any]:
    """Return the trials with their costs, how many run side by side here, the seconds in all, and known pitfalls.

    Raises UserError if a data set of a missing trial cannot be used.
    """
    share, concurrent = allocate(resources, [_describe_machine()])
    speed = GPU_FLOPS * share.gpus if share.gpus else measure_flops_per_second(max(1, int(share.cpus)))
    ended = ledger.last_attempts()
    known = study.known_trials(ledger)
    upcoming = list(_list_upcoming(study, ledger, {trial.name for trial in known}))
    missing = [trial for trial in known if trial.name not in ended]
    check_datasets([*missing, *(study.starts if upcoming else ())], study.roots, ledger.store)
    costs = estimate_costs(trial.config for trial in known)
    rows = [_row(trial.name, cost, trial.name not in ended, speed) for trial, cost in zip(known, costs, strict=True)]
    rows += [_row(name, estimate_cost(config), True, speed, count) for name, config, count in upcoming]
    left = sum(row["count"] for row in rows if row["missing"])
    seconds = sum(row["count"] * row["seconds"] for row in rows if row["missing"]) / min(concurrent, max(1, left))
    return {
        "study": study.name,
        "left_out": list(study.left_out),
        "trials": rows,
        "missing": left,
        "side_by_side": concurrent,
        "cpus": share.cpus,
        "gpus": share.gpus,
        "seconds": seconds,
        "pruning": study.search.pruning if study.search and study.starts else 0,
        "warnings": _collect_warnings(study),
    }


def _list_upcoming(study: Study, ledger: Ledger, known: set[str]) -> Iterator[tuple[str, Config, int]]:
    """Yield (name, configuration, count) of the trials that searches are still to make, at most.

    Start trials stand in for proposals and confirmations that do not exist yet. E3 trials that measure fingerprints for
    them are included, without those in `known`.
    """
    search = study.search
    if search is None:
        return
    for start in study.starts:
        past = read_proposals(ledger, start.name)
        proposed = sum(one.seed == start.config.seed for one in past)
        tested = start.config.with_leaves({"data.held_out": 0.0}).resolved()
        confirmations = study.requested_per_search - search.budget - (len(past) - proposed)
        for name, config, count in (
            (start.name, start.config, search.budget - proposed),
            (f"confirmations of {start.name}", tested, confirmations),
        ):
            if count <= 0:
                continue
            yield name, config, count
            needed = {trial_name(one): one for one in _list_fingerprint_trials(config, search.space)}
            yield from ((name, one, 1) for name, one in needed.items() if name not in known)
            known = known | set(needed)


def _list_fingerprint_trials(config: Config, space: str) -> list[Config]:
    """Return the E3 trials that a proposal of the space needs if it is weighted by a fingerprint."""
    if space not in WITH_FINGERPRINT:
        return []
    return config.with_leaves({"diffusion.weighting": "fingerprint"}).resolved().fingerprint_trials()


def _collect_warnings(study: Study) -> dict[str, list[str]]:
    """Return sentences on settings that are known to go wrong together, each with the names of the trials that have them."""
    found: dict[str, list[str]] = {}
    for trial in (*study.trials, *study.starts):
        for sentence in find_problems(trial.config):
            found.setdefault(sentence, []).append(trial.name)
    return found


def _row(name: str, cost: Cost, missing: bool, speed: float, count: int = 1) -> dict[str, Any]:
    """Return a trial's row of the plan. speed: floating-point operations a second."""
    return {
        "trial": name,
        "count": count,
        "missing": missing,
        "parameters": cost.parameters,
        "memory": cost.memory,
        "seconds": cost.flops / speed,
    }


def _describe_machine() -> dict[str, float]:
    """Return the CPUs and GPUs of this machine, as Ray names them."""
    import torch

    return {"CPU": len(os.sched_getaffinity(0)), "GPU": torch.cuda.device_count()}
