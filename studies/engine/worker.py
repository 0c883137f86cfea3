"""What a Ray Train worker does: run one trial and record it. Errors are recorded, not raised.

So a worker that dies (memory, node, kill) can be told from a trial that fails: only the former is started again.
"""

import contextlib
import datetime
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from diffseg import config as configuration
from diffseg.config import Config
from diffseg.errors import Stopped, UserError, WorkerLost
from studies.definition.trial import scored_images, trial_name
from studies.engine.pruning import reached
from studies.engine.watch import Watch
from studies.search.search import Rungs
from studies.store.copies import LocalCopy
from studies.store.folder import Folder
from studies.store.ledger import Ledger
from studies.store.outages import retry_outages
from studies.store.places import cache_folder, fetch_root
from studies.store.progress import NAME as PROGRESS
from studies.store.progress import ProgressWriter

SCRATCH = "scratch"  # the folder of a study for Ray's own files, which nobody needs after the session
HEIR = "heir"  # the file of a trial that holds the name of the one whose training it has
STARTS = "starts.json"  # how often a trial was started from one checkpoint
WORKER_DEATHS = 3  # after so many more on one node without a new checkpoint a trial has failed
STOP = "stop"  # the file of a study by whose existence its trials end at a checkpoint
PACKAGES = ("diffseg", "torch", "numpy", "monai", "ray", "optuna", "pyarrow")


class NotShared(Exception):
    """A node has another store than the session."""


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
    commit: str | None
    dirty: bool
    driver: str = ""  # what no other driver is called
    node: str = ""  # that it runs on
    rungs: dict | None = None  # fields of Rungs: where it is compared with others while it runs
    workers: int = 1  # that train it together
    labels: dict[str, str] = field(default_factory=dict)  # of the nodes that they run on
    memory: int = 0  # bytes of each of them

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.store, self.study)

    @cached_property
    def folder(self) -> Folder:
        """Checkpoints, progress and log of the trial."""
        return self.ledger.folder.at(f"work/{self.trial}")


def work(order: Order) -> str:
    """Run the trial to its end, from its last checkpoint if there is one; return its status.

    Of several workers that train it together, the first one records it.
    Raises OSError if the store is out of reach for long, NotShared if it is not the study's store on this node, and
    WorkerLost if another worker is gone.
    """
    from diffseg.training.parallel import Workers  # torch, which `status` does without

    retry_outages(lambda: _check_store(order))
    workers = Workers.joined()
    if not workers.first:
        return _help(order, workers)
    copy = LocalCopy(order.folder)
    retry_outages(copy.fetch)
    retry_outages(lambda: _inherit(order, copy.path))
    progress = ProgressWriter(order.folder, configuration.load(order.config).steps)
    if (starts := retry_outages(lambda: _starts(order, copy.path))) > WORKER_DEATHS + 1:
        return record_failure(order, f"its worker died {starts - 1} times without coming further")
    started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    with _logging_to(copy.path / "log.txt"):
        logging.info("attempt %d on %s: %s", order.attempt, socket.gethostname(), order.config)
        tables = {}
        try:
            tables, error = _run(order, progress, copy, workers)
            status = "pruned" if error else "complete"
        except Stopped as stop:
            logging.info("%s", stop)
            retry_outages(copy.push)
            order.folder.remove(STARTS)
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
        row = _row(order, status, error, started)
        (found,) = tables.pop("trials", [{}])
        heir, resumed = order.folder.read(HEIR), found.pop("resumed_seconds", 0.0)
        seconds = time.perf_counter() - clock + (0.0 if heir else resumed)
        row |= {
            "network_of": heir.decode() if heir else None,
            "workers": order.workers,
            "seconds": seconds,
            "gpu_seconds": order.gpus * order.workers * seconds,
        } | found
        logging.info("%s after %.1f s %s", status, seconds, error or "")
        retry_outages(copy.push)
        retry_outages(lambda: order.ledger.write(order.trial, order.attempt, {**tables, "trials": [row]}))
    retry_outages(lambda: _forget(order))
    workers.leave()
    return status


def _help(order: Order, workers) -> str:
    """Train with the first worker, who records what comes of it."""
    from diffseg.training.loop import Hooks

    with tempfile.TemporaryDirectory() as nowhere:
        try:
            _train(order, Path(nowhere), Hooks(), lambda other: Path(nowhere), workers)
        except (UserError, Stopped):  # which the first one has met, too
            pass
        except WorkerLost:
            if (
                order.ledger.last_attempts().get(order.trial, 0) < order.attempt
            ):  # else the first one has failed and said so
                raise
    return "helped"


def record_failure(order: Order, error: str) -> str:
    """Record an attempt that ended without its worker having been able to say so."""
    row = _row(order, "failed", error, datetime.datetime.now(datetime.UTC))
    order.ledger.write(order.trial, order.attempt, {"trials": [row]})
    _forget(order)
    return "failed"


def _forget(order: Order) -> None:
    """Remove what is told of an attempt only while it goes on."""
    for name in (PROGRESS, STARTS):
        order.folder.remove(name)


def _inherit(order: Order, folder: Path) -> None:
    """Begin where a trial has ended that differs only in how it predicts."""
    if any(folder.rglob("step-*.pt")):
        return
    trained = configuration.load(order.config).trained
    for row in order.ledger.last_rows(["status", "trained"]):
        if row["trained"] == trained and row["status"] == "complete":
            source = LocalCopy(order.ledger.folder.at(f"work/{row['trial']}")).fetch()
            order.folder.write(HEIR, row["trial"].encode())
            for checkpoint in source.rglob("step-*.pt"):
                target = folder / checkpoint.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.with_suffix(".tmp")
                shutil.copy(checkpoint, temporary)
                temporary.replace(target)
            return


def _starts(order: Order, folder: Path) -> int:
    """How often this driver has started the attempt on this node from the checkpoints that there are now, this start included.

    Drivers and nodes die, too, which is no trial's fault; a trial that breaks its worker does so on the same node.
    """
    mark = [order.driver, *sorted(str(file.relative_to(folder)) for file in folder.rglob("*.pt"))]
    before = json.loads(order.folder.read(STARTS) or "{}")
    counts = before["counts"] if before.get("mark") == mark else {}
    counts[order.node] = counts.get(order.node, 0) + 1
    order.folder.write(STARTS, json.dumps({"mark": mark, "counts": counts}).encode())
    return counts[order.node]


def _check_store(order: Order) -> None:
    if not order.ledger.is_defined():
        raise NotShared(
            f"{order.store} on {socket.gethostname()} does not hold the study {order.study}: all nodes have to share the "
            "store, so give a --store DIR on a file system that they all mount, or a URI"
        )


def _run(order: Order, progress: ProgressWriter, copy: LocalCopy, workers) -> tuple[dict[str, list[dict]], str | None]:
    """(rows by table, why the trial was pruned if it was)."""
    from diffseg.training.loop import Hooks

    def evaluated(step: int, metrics: dict[str, float]) -> str | None:
        if order.rungs is None:
            return None
        return reached(Rungs(**order.rungs), order.ledger, order.trial, step, metrics)

    def logged(step: int, metrics: dict[str, float]) -> None:
        progress(step)
        copy.push_in_background()

    def folder_of(other: Config) -> Path:
        """Networks and fingerprints of other trials."""
        return LocalCopy(order.ledger.folder.at(f"work/{trial_name(other)}")).fetch()

    watch = Watch(copy.path / "log.txt")
    hooks = Hooks(
        should_stop=watch.looking(_Stop(order.ledger.folder)),
        should_save=_Preemption(),
        on_log=logged,
        on_data=progress.reading,
        on_evaluation=evaluated,
    )
    with watch:
        outcome = _train(order, copy.path, hooks, folder_of, workers)
    return outcome.tables(), outcome.pruned


def _train(order: Order, folder: Path, hooks, folder_of: Callable[[Config], Path], workers):
    """The trial's outcome, on the first worker."""
    import torch

    from diffseg import trial

    if 0 < order.gpus < 1:  # so that a trial that grows does not take what its neighbours on the GPU were promised
        torch.cuda.set_per_process_memory_fraction(order.gpus)
    return trial.run(
        configuration.load(order.config),
        root=workers.united(lambda: fetch_root(order.root)) if order.root else None,
        folder=folder,
        cache=cache_folder(order.store),
        device="cuda" if order.gpus else "cpu",
        hooks=hooks,
        folder_of=folder_of,
        workers=workers,
    )


class _Stop:
    """Whether the study's stop file exists, looked up five times a second, and behind a URI every five seconds."""

    def __init__(self, folder: Folder):
        self.folder, self.every, self.looked = folder, 0.2 if folder.local else 5.0, 0.0

    def __call__(self) -> bool:
        if time.monotonic() - self.looked < self.every:
            return False
        self.looked = time.monotonic()
        with contextlib.suppress(OSError):  # the store is away
            return self.folder.exists(STOP)
        return False


class _Preemption:
    """Whether the node was told that it will be taken away, since it was asked last; true once."""

    def __init__(self):
        self.told, self.looked = False, 0.0

    def __call__(self) -> bool:
        if self.told or not preemption_is_watched() or time.monotonic() - self.looked < 1.0:
            return False
        import ray.train

        self.looked, self.told = time.monotonic(), ray.train.get_preemption_info() is not None
        if self.told:
            logging.info("this node is about to be taken away: leaving a checkpoint")
        return self.told


def preemption_is_watched() -> bool:
    return os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER") == "1"


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
        "scored_on": scored_images(config.data.held_out),
        "config": order.config,
        "trained": config.trained,
        "host": socket.gethostname(),
        "git_commit": order.commit,
        "dirty": order.dirty,
        "versions": json.dumps(_versions()),
        "started": started,
        "finished": datetime.datetime.now(datetime.UTC),
        "error": error,
        "log": f"{order.folder.path}/log.txt",
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
