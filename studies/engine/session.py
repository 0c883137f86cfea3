"""A session: `run` looks up in the ledger what a study lacks, makes Ray do it, and may be stopped at any moment.

Nothing of Ray's own experiment state is kept: the next session looks at the ledger again.
"""

import contextlib
from dataclasses import replace
from functools import partial
from typing import Any

from diffseg.errors import MachineryError, UserError
from studies.definition.study import Study
from studies.engine.connection import check_workers, connect, summarise
from studies.engine.display import Display
from studies.engine.environment import resolve_address, set_environment
from studies.engine.files import SCRATCH, STOP
from studies.engine.provenance import code_version
from studies.engine.request import build_request
from studies.engine.resources import DRIVER, Resources, allocate, find_nodes, read_launcher_config
from studies.engine.scheduler import Scheduler
from studies.engine.signals import Signals
from studies.planning.datasets import check_datasets
from studies.planning.estimate import estimate_cost
from studies.search.stopping import NO_GPU
from studies.store.compaction import COMPACT_FROM, compact_locked, remove_replaced
from studies.store.ledger import Ledger
from studies.store.lock import Lock
from studies.store.outages import retry_outages

IDLE_MEMORY = 2**30  # bytes of a worker without a trial


def run(
    study: Study,
    ledger: Ledger,
    resources: Resources = Resources(),
    retry: bool = False,
    address: str | None = None,
    quiet: bool = False,
) -> bool:
    """Run what the ledger lacks; return False if the session was stopped before the end.

    Args:
        retry: Whether failed trials are run once more.
        address: Of the cluster to join; None: RAY_ADDRESS, or a Ray on this machine.
        quiet: Whether nothing is printed about progress.

    Raises:
        UserError: The store or a data set cannot be used, another session runs the study, its trials fit on no node, or a
            search has no prospect of success.
        MachineryError: Ray does not start or cannot run trials.
    """
    scheduler = Scheduler(study, ledger, retry)
    planned = scheduler.planned()
    display = Display(study, ledger, planned, quiet)  # raises for sizes that a network cannot take, before any writing
    if not scheduler.done():
        check_datasets(planned, study.roots, ledger.store, elsewhere=resolve_address(address) is not None)
    lock = Lock(ledger.folder)
    lock.acquire()
    try:
        _prepare_store(study, ledger)
        scheduler = Scheduler(study, ledger, retry)
        if not scheduler.done():
            try:
                _run_missing(scheduler, resources, address, display)
            except KeyboardInterrupt:
                return False
        if problem := scheduler.problem():
            raise UserError(problem)
        with contextlib.suppress(UserError):  # a file was damaged meanwhile, which the next session sets aside
            compact_locked(ledger, at_least=COMPACT_FROM)
        return Scheduler(study, ledger).done()
    finally:
        ledger.folder.at(SCRATCH).clear()
        lock.release()


def _prepare_store(study: Study, ledger: Ledger) -> None:
    """Define the study in its folder, and remove or set aside what killed sessions left there."""
    Scheduler(study, ledger).check_searches()
    ledger.define(study.definition())
    ledger.folder.remove(STOP)
    for leftover in (SCRATCH, "tmp"):
        ledger.folder.at(leftover).clear()
    remove_replaced(ledger)
    ledger.set_aside_damaged()


def _run_missing(scheduler: Scheduler, resources: Resources, address: str | None, display: Display) -> None:
    """Run what is missing through Ray. Raises MachineryError if trials are left though nobody stopped the session."""
    address, folder = resolve_address(address), scheduler.ledger.folder
    set_environment(address)
    import ray

    with Signals() as signals, connect(address) as logs:
        signals.stop_by(lambda: retry_outages(lambda: folder.write(STOP, b"")))
        if DRIVER not in ray.cluster_resources():
            raise UserError(
                f"the Ray cluster has no resource '{DRIVER}': start its head with --resources='{{\"{DRIVER}\": 1000}}'"
            )
        check_workers(logs)
        nodes = find_nodes(ray, read_launcher_config() if address else {}, resources.labels)
        memory = IDLE_MEMORY + max(
            estimate_cost(trial.config, resources.workers).memory for trial in scheduler.planned()
        )
        share, concurrent = allocate(replace(resources, memory=memory), nodes, on_demand=bool(address))
        if scheduler.limits_gpu_hours and not share.gpus:
            raise UserError(f"{NO_GPU}: give --gpus, or limit search.stop.hours")
        tuner = _build_tuner(scheduler, share, concurrent)
        with display:
            results = _fit(tuner, logs)
        if not (scheduler.done() or scheduler.problem() or folder.exists(STOP)):
            raise _unfinished(scheduler, results, logs)


def _build_tuner(scheduler: Scheduler, share: Resources, concurrent: int) -> Any:
    """Build the Tuner that starts a driver for each trial that the scheduler names."""
    from ray import tune

    from studies.engine.driver import run_driver, scratch_storage
    from studies.engine.searcher import LedgerSearcher

    request = partial(build_request, scheduler.study, scheduler.ledger, share, code_version())
    return tune.Tuner(
        tune.with_resources(run_driver, {DRIVER: 1}),
        tune_config=tune.TuneConfig(
            search_alg=LedgerSearcher(scheduler, request),
            num_samples=-1,  # until the searcher says that it has finished
            max_concurrent_trials=concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name="session", verbose=0, **scratch_storage(scheduler.ledger, "tune")),
    )


def _fit(tuner: Any, logs: str) -> Any:
    """Run the Tuner; return its results. Raises MachineryError if Ray or the store is gone."""
    from ray.exceptions import RayError
    from ray.tune import TuneError

    try:
        return tuner.fit()
    except (RayError, TuneError, OSError) as error:
        raise MachineryError(
            f"Ray or the store failed ({summarise(error)}), Ray's logs are in {logs}: the same command resumes from the last "
            "checkpoints"
        ) from error


def _unfinished(scheduler: Scheduler, results: Any, logs: str) -> MachineryError:
    why = f", the last one by {summarise(results.errors[-1])}" if results.errors else ""
    return MachineryError(
        f"the drivers of trials of {scheduler.study.name} ended again and again{why}: Ray's logs are in {logs}, and the same "
        "command continues with what is missing"
    )
