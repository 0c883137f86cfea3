"""Cleaning: removes from a study's folder what no result, no prediction and no trial that is left to run needs.

Tables, logs and trials that have not ended are never touched.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from itertools import groupby
from pathlib import PurePath

from diffseg.errors import UserError
from diffseg.evaluation.registry import METRICS
from diffseg.networks.registry import NETWORKS
from diffseg.rows import Row
from diffseg.training import checkpoints
from studies.definition.study import Study
from studies.definition.trial import trial_name
from studies.engine.files import SCRATCH, TRAINED_BY
from studies.store.best import best_trials, nothing_measured_error, unconfirmed_searches
from studies.store.copies import LocalCopy
from studies.store.ledger import Ledger
from studies.store.progress import NAME as PROGRESS

log = logging.getLogger(__name__)
CHECKPOINTS, NETWORK, TEMPORARY = "checkpoints", "networks", "temporary files"  # kinds of removals
LEFT_BY_KILLS = (SCRATCH, "tmp")  # folders of a study that only a running session needs
FREED = 0.75  # the share of a full checkpoint that is no EMA: the network and two moments
KEPT_FILES = ("log.txt", TRAINED_BY)  # of a trial whose network is removed
Files = dict[str, int]  # sizes in bytes by name


@dataclass(frozen=True)
class Removal:
    """What is removed from one folder."""

    kind: str  # CHECKPOINTS, NETWORK or TEMPORARY
    folder: str  # below the study's
    files: tuple[str, ...]  # below the folder
    size: int  # bytes that become free; an estimate before a checkpoint is reduced to its weights
    training_files: tuple[str, ...] | None = None  # patterns, if checkpoints are reduced; None: the files are removed


def plan_cleaning(study: Study, ledger: Ledger, keep: int | None, metric: str | None) -> list[Removal]:
    """List what can be removed. Nothing is written.

    Args:
        study: The study.
        ledger: Its ledger.
        keep: The number of trials of each data set that keep their networks, the best by the metric; None for all.
        metric: One of METRICS; None for the ranking of a search's proposals, and for test images its first objective, or else
            iou.

    Raises:
        UserError: No trial has measured the metric.
    """
    every = ledger.folder.files()
    rows = {row["trial"]: row for row in ledger.last_rows(["status", "checkpoint", "network", "trained"])}
    kept = None if keep is None else _find_kept(study, ledger, rows, keep, metric)
    found = list[Removal]()
    for trial, files in _group_by_trial(every):
        if trial not in rows or PROGRESS in files:  # it has not ended, or runs once more
            continue
        plan = _plan_leftovers(files, rows[trial]) if kept is None or trial in kept else _plan_network(files)
        found += [replace(plan, folder=f"work/{trial}")] if plan.files else []
    for folder in LEFT_BY_KILLS:
        names = {name.partition("/")[2]: size for name, size in every.items() if name.startswith(f"{folder}/")}
        found += [Removal(TEMPORARY, folder, tuple(names), sum(names.values()))] if names else []
    return found


def remove(ledger: Ledger, removal: Removal) -> Removal | None:
    """Remove what was planned, for the holder of the study's lock. Repeated after a kill, it does the rest.

    Returns:
        The removal with the bytes that it freed; None, with a warning, if a checkpoint is damaged, so that all stay.
    """
    folder = ledger.folder.at(removal.folder)
    if removal.training_files is not None:
        copy = LocalCopy(folder)
        before = sum(folder.files().values())
        try:
            checkpoints.keep_weights(copy.fetch(), removal.training_files)
        except UserError as error:
            log.warning("%s: nothing of %s is removed", error, removal.folder)
            return None
        copy.push()
        return replace(removal, size=before - sum(folder.files().values()))
    for name in removal.files:
        folder.remove(name)
    if removal.kind != CHECKPOINTS:
        for below in {name.partition("/")[0] for name in removal.files if "/" in name}:
            folder.at(below).clear()
    return removal


def _group_by_trial(every: Files) -> Iterator[tuple[str, Files]]:
    """Yield the name of each trial with a folder, and the files in it."""
    work = sorted(name.removeprefix("work/") for name in every if name.startswith("work/"))
    for trial, names in groupby(work, lambda name: name.partition("/")[0]):
        yield trial, {name.partition("/")[2]: every[f"work/{name}"] for name in names}


def _plan_network(files: Files) -> Removal:
    """Plan to remove all of a trial's files but its log."""
    names = tuple(name for name in files if name not in KEPT_FILES)
    return Removal(NETWORK, "", names, sum(files[name] for name in names))


def _plan_leftovers(files: Files, row: Row) -> Removal:
    """Plan to remove what prediction does not need.

    A failed trial keeps its newest checkpoints, from which `retry` resumes. So does a trial whose last checkpoint could
    not be written, since its earlier ones predict nothing.
    """
    found = {name for name in files if PurePath(name).match("step-*.pt")}
    newest = {max(names) for _, names in groupby(sorted(found), lambda name: name.rpartition("/")[0])}
    ended = row["status"] == "pruned" or any("/" not in name and _predicts(name, row) for name in newest)
    older, unfinished = found - newest, {name for name in files if PurePath(name).match("step-*.tmp")}
    if not ended:
        names = older | unfinished
        return Removal(CHECKPOINTS, "", tuple(sorted(names)), sum(files[name] for name in names))
    patterns = NETWORKS[row["network"]].training_files if row["network"] in NETWORKS else ()
    training = {name for name in files if any(fnmatch(name, pattern) for pattern in patterns)}
    full = {name for name in newest if not checkpoints.is_weights(PurePath(name).name)}
    size = sum(files[name] for name in older | unfinished | training) + round(FREED * sum(files[name] for name in full))
    return Removal(CHECKPOINTS, "", tuple(sorted(older | unfinished | training | full)), size, patterns)


def _predicts(name: str, row: Row) -> bool:
    """Return whether a complete trial predicts with a checkpoint."""
    return row["status"] == "complete" and (checkpoints.is_weights(name) or name == row["checkpoint"])


def _find_kept(study: Study, ledger: Ledger, rows: dict[str, Row], keep: int, metric: str | None) -> set[str]:
    """Return the trials that keep their networks: the best ones, and those that they and unfinished trials build on.

    Raises:
        UserError: No trial has measured the metric.
    """
    kept = set(_name_best(study, ledger, keep, metric))
    if not kept:
        raise nothing_measured_error(study.name, metric or _default_metric(study))
    known = study.known_trials(ledger)
    finished = {name for name, row in rows.items() if row["status"] in ("complete", "pruned")}
    trained = {row["trained"]: name for name, row in rows.items() if row["status"] == "complete"}
    for trial in (*known, *study.starts):
        if trial.name in kept or trial.name not in finished:
            kept |= {trial_name(other) for other in trial.config.needs()}
        if trial.name not in finished and trial.config.trained in trained:
            kept.add(trained[trial.config.trained])
    if study.starts:  # proposals that do not exist yet may be weighted by the same fingerprints
        kept |= {trial.name for trial in known if trial.role == "fingerprint"}
    return kept


def _default_metric(study: Study) -> str:
    return study.search.objective[0] if study.search and study.starts else "iou"


def _name_best(study: Study, ledger: Ledger, count: int, metric: str | None) -> Iterator[str]:
    """Yield the best trials of each data set, and the trials of the best proposals of each search without a confirmed one.

    Proposals are in the order of `diffseg best --held-out`. One that is measured on several parts keeps the networks of all.
    """
    tested = best_trials(study, ledger, metric or _default_metric(study), pareto=False)
    for _, own in groupby(tested, lambda row: row["dataset"]):
        yield from [row["trial"] for row in own][:count]
    if not (searches := unconfirmed_searches(study, ledger, tested)):
        return
    from studies.search.history import read_searches, sort_proposals

    for one in read_searches(study, ledger, METRICS):
        if one.history.name in searches:
            order = sort_proposals(one.tried, one.history.rank(one.tried), one.rows, metric)
            best = [each for each in order if each.losses and _has_measured(each.combine_rows(one.rows), metric)]
            yield from (stage.trial for each in best[:count] for stage in each.stages if not stage.cheap)


def _has_measured(row: Row, metric: str | None) -> bool:
    value = row.get(metric) if metric else 0.0
    return value is not None and value == value
