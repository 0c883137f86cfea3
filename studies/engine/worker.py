"""A Ray Train worker: it runs one trial and records the outcome. Errors of the trial are recorded, not raised.

A worker that dies (out of memory, lost node, killed) thus differs from a trial that fails: only the dead worker is replaced.
"""

import contextlib
import datetime
import logging
import socket
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffseg import config as configuration
from diffseg.config import Config
from diffseg.errors import Stopped, UserError, WorkerLost
from studies.definition.trial import trial_name
from studies.engine import pruning
from studies.engine.files import STARTS, TRAINED_BY
from studies.engine.interruption import PreemptionNotice, StopFile
from studies.engine.preparation import check_store, count_starts, reuse_training
from studies.engine.records import record_failure, recorded_status, remove_traces, trial_row
from studies.engine.request import TrialRequest
from studies.engine.watchdog import Watchdog
from studies.search.search import Rungs
from studies.store.copies import LocalCopy
from studies.store.outages import retry_outages
from studies.store.places import cache_folder, fetch_root
from studies.store.progress import ProgressWriter

if TYPE_CHECKING:  # torch, which commands that only read do without
    from diffseg.training.hooks import Hooks
    from diffseg.training.parallel import Workers
    from diffseg.trial import Outcome

WORKER_DEATHS = 3  # deaths on one node without a new checkpoint that a trial survives

Rows = list[dict[str, Any]]


def run_trial(request: TrialRequest) -> str:
    """Run a trial to its end, from its last checkpoint if there is one; return its status.

    Of several workers, the first one records the trial, and the others return "helped".

    Raises:
        OSError: The store stayed out of reach.
        NotShared: The store on this node is not the session's.
        WorkerLost: Another worker of the trial is gone.
    """
    from diffseg.training.parallel import Workers

    retry_outages(lambda: check_store(request))
    workers = Workers.from_process_group()
    if not workers.is_first:
        return _help(request, workers)
    copy = LocalCopy(request.folder)
    retry_outages(copy.fetch)
    status = retry_outages(lambda: recorded_status(request))
    if status is None:
        retry_outages(lambda: reuse_training(request, copy.path))
        if (starts := retry_outages(lambda: count_starts(request, copy.path))) > WORKER_DEATHS + 1:
            return record_failure(request, f"its worker died {starts - 1} times without a new checkpoint")
        with _log_to(copy.path / "log.txt"):
            status = _attempt(request, copy, workers)
    if status != "stopped":
        _keep_weights(request, copy, status)
        retry_outages(lambda: remove_traces(request))
        workers.shutdown()
    return status


def _keep_weights(request: TrialRequest, copy: LocalCopy, status: str) -> None:
    """Remove what only training needs from the folder of a trial whose row is in the ledger.

    A failed trial keeps its checkpoints, from which `retry` resumes, and so does one whose last checkpoint found no room.
    """
    from diffseg.training import checkpoints

    if not (status == "pruned" or (status == "complete" and checkpoints.holds_weights(copy.path))):
        return
    try:
        checkpoints.keep_weights(copy.path, configuration.load(request.config).network.training_files)
    except (UserError, OSError) as error:
        logging.warning("the checkpoints of %s stay (%s): `diffseg clean` removes them", request.trial, error)
    retry_outages(copy.push)


def _help(request: TrialRequest, workers: "Workers") -> str:
    """Train with the first worker, which records the outcome and any failure."""
    from diffseg.training.hooks import Hooks

    with tempfile.TemporaryDirectory() as nowhere:
        try:
            _train(request, Path(nowhere), Hooks(), workers)
        except (UserError, Stopped):  # the first worker has met it, too
            pass
        except WorkerLost:
            recorded = request.ledger.last_attempts().get(request.trial, 0)
            if recorded < request.attempt:  # else the first worker has failed and said so
                raise
    return "helped"


def _attempt(request: TrialRequest, copy: LocalCopy, workers: "Workers") -> str:
    """Train and evaluate the trial and record what came of it; return its status."""
    started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    progress = ProgressWriter(request.folder, configuration.load(request.config).steps)
    logging.info("attempt %d on %s: %s", request.attempt, socket.gethostname(), request.config)
    tables: dict[str, Rows] = {}
    try:
        tables, error = _run(request, progress, copy, workers)
        status = "pruned" if error else "complete"
    except Stopped as stop:
        logging.info("%s", stop)
        retry_outages(copy.push)
        request.folder.remove(STARTS)
        progress.write("stopped")
        return "stopped"
    except WorkerLost as fault:
        logging.error("%s", fault)
        raise
    except UserError as fault:
        status, error = "failed", str(fault)
    except Exception as fault:
        status, error = "failed", f"{type(fault).__name__}: {fault}"
        logging.error("%s", traceback.format_exc())
    row = trial_row(request, status, error, started)
    (measured,) = tables.pop("trials", [{}])
    row |= _compute_costs(request, time.perf_counter() - clock, measured.pop("resumed_seconds", 0.0)) | measured
    logging.info("%s after %.1f s %s", status, row["seconds"], error or "")
    retry_outages(copy.push)
    retry_outages(lambda: request.ledger.write(request.trial, request.attempt, {**tables, "trials": [row]}))
    return status


def _compute_costs(request: TrialRequest, seconds: float, resumed: float) -> dict[str, Any]:
    """Compute the columns of the trial's row that say what it took.

    Args:
        seconds: What this worker took.
        resumed: Seconds up to the checkpoint that the trial resumed from. They do not count if another trial left it.
    """
    trained_by = request.folder.read(TRAINED_BY)
    seconds += 0.0 if trained_by else resumed
    return {
        "network_of": trained_by.decode() if trained_by else None,
        "workers": request.workers,
        "seconds": seconds,
        "gpu_seconds": request.gpus * request.workers * seconds,
    }


def _run(
    request: TrialRequest, progress: ProgressWriter, copy: LocalCopy, workers: "Workers"
) -> tuple[dict[str, Rows], str | None]:
    """Train and evaluate; return the rows of each table, and why the trial was pruned if it was."""
    from diffseg.training.hooks import Hooks

    def check_rung(step: int, rows: Rows) -> str | None:
        if request.rungs is None:
            return None
        rungs = Rungs(**request.rungs)
        pruning.record_rung(rungs, request.ledger, request.trial, step, rows)
        return pruning.reason_to_prune(rungs, request.ledger, request.trial, step)

    def report(step: int, metrics: dict[str, float]) -> None:
        logging.info("%s", _describe_step(step, progress.steps, metrics))
        progress(step)
        copy.push_in_background()

    watchdog = Watchdog(copy.path / "log.txt")
    hooks = Hooks(
        should_stop=watchdog.with_heartbeat(StopFile(request.ledger.folder)),
        should_save=PreemptionNotice(),
        on_log=report,
        on_data=progress.report_reading,
        on_evaluation=check_rung,
    )
    with watchdog:
        outcome = _train(request, copy.path, hooks, workers)
    assert outcome is not None  # on the first worker
    return outcome.tables(), outcome.pruned


def _describe_step(step: int, steps: int, metrics: dict[str, float]) -> str:
    """Return a training step as a line of the log, such as "step 200 of 1000: loss 0.0312, learning_rate 0.0001"."""
    named = [f"{name} {metrics[name]:.4g}" for name in ("loss", "learning_rate") if name in metrics]
    return f"step {step} of {steps}: {', '.join(named)}"


def _train(request: TrialRequest, folder: Path, hooks: "Hooks", workers: "Workers") -> "Outcome | None":
    """Train and evaluate with checkpoints in `folder`; return the outcome on the first worker, None on others."""
    import torch

    from diffseg import trial

    def fetch_other(other: Config) -> Path:
        """Fetch the folder of another trial, for its network or fingerprint."""
        return LocalCopy(request.ledger.folder.at(f"work/{trial_name(other)}")).fetch()

    if 0 < request.gpus < 1:  # a trial that grows must not take the memory promised to its neighbours on the GPU
        torch.cuda.set_per_process_memory_fraction(request.gpus)
    root = request.root
    return trial.run(
        configuration.load(request.config),
        root=workers.run_on_all(lambda: fetch_root(root)) if root else None,
        folder=folder,
        cache=cache_folder(request.store),
        device="cuda" if request.gpus else "cpu",
        hooks=hooks,
        folder_of=fetch_other if workers.is_first else lambda other: folder,
        workers=workers,
    )


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Append everything that is logged or warned about in the meantime to a file."""
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()
