"""What `diffseg run` would do, and about how long it would take."""

import os
from collections.abc import Iterator
from typing import Any

from diffseg.config import Config
from diffseg.diffusion.combinations import find_problems
from studies.definition.distinctions import distinguish
from studies.definition.study import Study
from studies.definition.trial import trial_name
from studies.engine.resources import Resources, allocate
from studies.planning.datasets import check_datasets
from studies.planning.estimate import Cost, estimate_cost, estimate_costs
from studies.planning.machine import Speed, machine_speed
from studies.planning.presets import name_preset
from studies.search.proposals import Proposal, describe_settings
from studies.search.search import Search
from studies.search.stages import list_stages
from studies.search.stopping import NO_GPU
from studies.search.upcoming import Upcoming, list_upcoming
from studies.store.ledger import Ledger

SAMPLES = 3  # random proposals of a search that a plan shows


def plan(study: Study, ledger: Ledger, resources: Resources) -> dict[str, Any]:
    """Return the trials with their costs, how many run side by side here, the seconds in all, and known pitfalls.

    Seconds are ranges of the shortest and the longest time to expect. `disk` is what all missing trials
    leave, and the checkpoints of those that train side by side.

    Raises UserError if a data set of a missing trial cannot be used.
    """
    share, concurrent = allocate(resources, [count_processors()])
    speed = machine_speed(share.cpus * share.workers, (share.gpus or 0) * share.workers)
    ended = ledger.last_attempts()
    known = study.known_trials(ledger)
    searches = {one.search: one for one in list_upcoming(study, ledger)}
    upcoming = list(_list_trials(study, searches, {trial.name for trial in known}))
    missing = [trial for trial in known if trial.name not in ended]
    check_datasets([*missing, *(study.starts if upcoming else ())], study.roots, ledger.store)
    costs = estimate_costs(trial.config for trial in known)
    rows = [
        _row(trial.name, trial.config, cost, trial.name not in ended, speed)
        for trial, cost in zip(known, costs, strict=True)
    ]
    rows += [_row(name, config, estimate_cost(config), True, speed, count) for name, config, count in upcoming]
    to_do = [row for row in rows if row["missing"]]
    left = sum(row["count"] for row in to_do)
    lanes = min(concurrent, max(1, left))
    seconds = [sum(row["count"] * row["seconds"][end] for row in to_do) / lanes for end in (0, 1)]
    differing = distinguish({trial.name: trial.tree for trial in known})
    rows = [row | {"differs": differing.get(row["trial"], "")} for row in rows]
    return {
        "study": study.name,
        "left_out": list(study.left_out),
        "trials": rows,
        "missing": left,
        "side_by_side": concurrent,
        "cpus": share.cpus,
        "gpus": share.gpus,
        "seconds": seconds,
        "memory": max((row["memory"] for row in to_do), default=0),
        "disk": sum(row["count"] * row["disk"] for row in to_do)
        + lanes * max((row["checkpoints"] for row in to_do), default=0),
        "pruning": study.search.pruning if study.search and study.starts else 0,
        "ends": [one.end for one in searches.values() if one.end],
        "warnings": _collect_warnings(study, bool(share.gpus)),
        "samples": list(_sample_spaces(study, speed)) if upcoming else [],
    }


def _sample_spaces(study: Study, speed: Speed) -> Iterator[dict[str, Any]]:
    """Yield SAMPLES random proposals of each search: its settings in words, and its time or why it would be refused."""
    from studies.search.sampling import Sampler  # imports Optuna

    if study.search is None:
        return
    for start in study.starts:
        for one in Sampler(study.search, start.name, start.config).draw_randomly(SAMPLES):
            seconds = speed.seconds(estimate_cost(one.config).flops) if one.config else None
            words = describe_settings(one.settings)
            yield {"search": start.name, "settings": words, "seconds": seconds and list(seconds), "refused": one.reason}


def _list_trials(study: Study, searches: dict[str, Upcoming], known: set[str]) -> Iterator[tuple[str, Config, int]]:
    """Yield (name, configuration, count) of the trials that searches are still to make, at most.

    Start trials stand in for proposals and confirmations that do not exist yet. E3 trials that measure fingerprints for
    them are included, without those in `known`.
    """
    search = study.search
    if search is None:
        return
    for start in study.starts:
        stages = list_stages(search, Proposal(start.name, 0, start.config.seed, start.name, "", {}, start.config))
        own = searches[start.name]
        for name, config, count in (
            *((stage.trial, stage.config, own.proposals) for stage in stages),
            (f"confirmations of {start.name}", start.config.on_test_images(), own.confirmations),
        ):
            if count <= 0:
                continue
            yield name, config, count
            needed = {trial_name(one): one for one in _list_fingerprint_trials(config, search)}
            yield from ((name, one, 1) for name, one in needed.items() if name not in known)
            known = known | set(needed)


def _list_fingerprint_trials(config: Config, search: Search) -> list[Config]:
    """Return the E3 trials that a proposal of the search needs if it is weighted by a fingerprint."""
    if not search.may_use_fingerprint:
        return []
    return config.with_leaves({"diffusion.weighting": "fingerprint"}).resolved().fingerprint_trials()


def _collect_warnings(study: Study, gpus: bool) -> dict[str, list[str]]:
    """Return sentences on settings that are known to go wrong together, each with the names of the trials that have them.

    gpus: Whether trials get some.
    """
    found: dict[str, list[str]] = {}
    for trial in (*study.trials, *study.starts):
        for sentence in find_problems(trial.config):
            found.setdefault(sentence, []).append(trial.name)
    if study.search and study.starts and study.search.stop.gpu_hours is not None and not gpus:
        found[f"{NO_GPU}, which `diffseg run` refuses"] = [start.name for start in study.starts]
    return found


def _row(name: str, config: Config, cost: Cost, missing: bool, speed: Speed, count: int = 1) -> dict[str, Any]:
    """Return a trial's row of the plan."""
    return {
        "trial": name,
        "count": count,
        "missing": missing,
        "preset": name_preset(config),
        "parameters": cost.parameters,
        "memory": cost.memory,
        "disk": cost.disk,
        "checkpoints": cost.checkpoints,
        "seconds": list(speed.seconds(cost.flops)),
    }


def count_processors() -> dict[str, float]:
    """Return the CPUs and GPUs of this machine, as Ray names them."""
    import torch

    return {"CPU": len(os.sched_getaffinity(0)), "GPU": torch.cuda.device_count()}
