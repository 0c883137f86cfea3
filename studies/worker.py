"""What a Ray Train worker does: run one trial and record it. Errors are recorded, not raised.

So a worker that dies (memory, node, kill) can be told from a trial that fails: only the former is started again.
"""

import contextlib
import datetime
import importlib.metadata
import json
import logging
import platform
import socket
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from diffseg import config as configuration
from diffseg.errors import Stopped, UserError
from studies.ledger import Ledger
from studies.progress import Reporter
from studies.pruning import reached
from studies.search import Rungs
from studies.study import trial_name

PACKAGES = ("diffseg", "torch", "numpy", "monai", "ray", "optuna", "pyarrow")


@dataclass(frozen=True)
class Order:
    """One attempt at one trial, as plain values that travel to the worker."""

    store: str
    study: str
    trial: str
    attempt: int
    config: str  # canonical JSON
    root: str | None  # of the data set
    cpus: float
    gpus: float
    stop_file: str  # the worker stops at a checkpoint once this file exists
    scratch: str  # folder for Ray Train's own files, which nobody needs afterwards
    commit: str | None
    dirty: bool
    rungs: dict | None = None  # fields of Rungs: where it is compared with others while it runs

    @property
    def folder(self) -> Path:
        """Checkpoints, progress and log of the trial."""
        return Path(Ledger(self.store, self.study).root) / "work" / self.trial


def work(order: Order) -> str:
    """Run the trial to its end, from its last checkpoint if there is one; return its status."""
    order.folder.mkdir(parents=True, exist_ok=True)
    progress = Reporter(order.folder, configuration.load(order.config).steps)
    started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    with _logging_to(order.folder / "log.txt"):
        logging.info("attempt %d on %s: %s", order.attempt, socket.gethostname(), order.config)
        tables = {}
        try:
            tables, error = _run(order, progress)
            status = "pruned" if error else "complete"
        except Stopped as stop:
            logging.info("%s", stop)
            progress.write("stopped")
            return "stopped"
        except UserError as fault:
            status, error = "failed", str(fault)
        except Exception as fault:
            status, error = "failed", f"{type(fault).__name__}: {fault}"
            logging.error("%s", traceback.format_exc())
        row = _row(order, status, error, started)
        (found,) = tables.pop("trials", [{}])
        seconds = time.perf_counter() - clock + found.pop("resumed_seconds", 0.0)
        row |= {"seconds": seconds, "gpu_seconds": order.gpus * seconds} | found
        Ledger(order.store, order.study).write(order.trial, order.attempt, {**tables, "trials": [row]})
        logging.info("%s after %.1f s %s", status, seconds, error or "")
    progress.remove()
    return status


def record_failure(order: Order, error: str) -> str:
    """Record an attempt that ended without its worker having been able to say so."""
    row = _row(order, "failed", error, datetime.datetime.now(datetime.UTC))
    Ledger(order.store, order.study).write(order.trial, order.attempt, {"trials": [row]})
    Reporter(order.folder, 1).remove()
    return "failed"


def _run(order: Order, progress: Reporter) -> tuple[dict[str, list[dict]], str | None]:
    """(rows by table, why the trial was pruned if it was)."""
    from diffseg import trial
    from diffseg.training import Hooks

    def evaluated(step: int, metrics: dict[str, float]) -> str | None:
        if order.rungs is None:
            return None
        return reached(Rungs(**order.rungs), Ledger(order.store, order.study), order.trial, step, metrics)

    hooks = Hooks(
        should_stop=_Stop(Path(order.stop_file)),
        on_log=lambda step, metrics: progress(step),
        on_data=progress.reading,
        on_evaluation=evaluated,
    )
    outcome = trial.run(
        configuration.load(order.config),
        root=Path(order.root) if order.root else None,
        folder=order.folder,
        cache=Path(Ledger(order.store, order.study).root).parent / "cache",
        device="cuda" if order.gpus else "cpu",
        hooks=hooks,
        folder_of=lambda other: order.folder.parent / trial_name(other),
    )
    tables = {
        "trials": [outcome.trial],
        "curves": outcome.curves,
        "timesteps": outcome.timesteps,
        "images": outcome.images,
        "calibration": outcome.calibration,
        "examples": outcome.examples,
        "fingerprints": outcome.fingerprints,
    }
    return tables, outcome.pruned


class _Stop:
    """Whether the stop file exists, looked up at most five times a second."""

    def __init__(self, path: Path):
        self.path, self.looked = path, 0.0

    def __call__(self) -> bool:
        if time.monotonic() - self.looked < 0.2:
            return False
        self.looked = time.monotonic()
        return self.path.exists()


def _row(order: Order, status: str, error: str | None, started: datetime.datetime) -> dict:
    config = configuration.load(order.config)
    return {
        "study": order.study,
        "digest": config.digest,
        "status": status,
        "experiment": config.experiment,
        "dataset": config.data.name,
        "network": config.network.name,
        "seed": config.seed,
        "config": order.config,
        "host": socket.gethostname(),
        "git_commit": order.commit,
        "dirty": order.dirty,
        "versions": json.dumps(_versions()),
        "started": started,
        "finished": datetime.datetime.now(datetime.UTC),
        "error": error,
        "log": str(order.folder / "log.txt"),
        **{
            "config_" + path.replace(".", "_"): json.dumps(value) if isinstance(value, list) else value
            for path, value in config.leaves().items()
            if value is not None
        },
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


@contextlib.contextmanager
def _logging_to(path: Path):
    """Everything logged or warned of in the meantime is appended to the file."""
    handler = logging.FileHandler(path)
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
