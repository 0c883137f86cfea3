"""A session: what `run` does. It looks at the ledger, has Ray do what is missing, and may be stopped at any moment.

Nothing of Ray's own experiment state is kept: the next session looks at the ledger again.
"""

import contextlib
import math
import os
import signal
import socket
import subprocess
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import yaml

from diffseg.errors import UserError
from studies.agenda import Agenda
from studies.compaction import MANY, merge, sweep
from studies.display import Display
from studies.estimate import cost
from studies.folder import Folder, fixed
from studies.ledger import Ledger
from studies.lock import Lock
from studies.study import Study, Trial
from studies.worker import SCRATCH, STOP, Order

LAUNCHED = Path("~/ray_bootstrap_config.yaml")  # what a head knows of the nodes that it may start
NODES_START = 600.0  # seconds that nodes which always run may take to start
BASE = 2**30  # bytes of a worker without a trial
DRIVER = "driver"  # the resource that drivers hold, so that CPUs stay whole for workers
# glibc gives large tensors back to the system as soon as they are freed, and the kernel clears their pages again for the next
# ones. Kept instead: measuring errors over t at 64 px takes half as long (2.2 s a batch to 1.1), a training step 0.9 times.
MEMORY = {
    "MALLOC_ARENA_MAX": "1",  # Train's loop runs in a thread, whose own arena would not keep more than 64 MiB
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
}
ENVIRONMENT = MEMORY | {
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0, Tune prints nothing
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean what they meant to the user
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # how soon the end of a worker is noticed
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger is the record
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # our own stops trials at a checkpoint
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


JOINED = {
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "1800",  # a cluster may have to start a node first
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1",  # and its nodes may be taken away
}
ALONE = {"RAY_AUTH_MODE": "disabled"}  # a cluster of one machine, open to this process alone


@dataclass(frozen=True)
class Resources:
    """What one trial asks for."""

    cpus: float = 1.0  # of each of its workers
    gpus: float | None = None  # of each; None: one where the cluster has any
    concurrency: int | None = None  # trials side by side, at most; None: as many as find place
    workers: int = 1  # that train it together, each on a part of every batch
    labels: dict[str, str] = field(default_factory=dict)  # that the workers' nodes have to have
    memory: int = 0  # bytes of each worker's, where it has no GPU; less if no node has as much


def run(
    study: Study,
    ledger: Ledger,
    resources: Resources = Resources(),
    retry: bool = False,
    address: str | None = None,
    quiet: bool = False,
) -> bool:
    """Run what the ledger lacks; with retry, also what failed. False if it was stopped before the end.

    Raises UserError if the store cannot be used, the study is being run already, its trials fit on no node, or a search
    has no prospect of success.
    """
    planned = Agenda(study, ledger, retry).planned()
    display = Display(
        study, ledger, planned, quiet
    )  # it finds sizes that a network cannot take, before anything is written
    folder, lock = ledger.folder, Lock(ledger.folder)
    lock.acquire()
    try:
        Agenda(study, ledger).check()
        ledger.define(study.definition())
        folder.remove(STOP)
        for leftover in (SCRATCH, "tmp"):  # of a session that was killed
            folder.at(leftover).clear()
        sweep(ledger)
        for path in ledger.set_aside_damaged():
            print(
                f"warning: {path} was damaged and is set aside in {folder.path}/damaged; its trial runs again",
                flush=True,
            )
        agenda = Agenda(study, ledger, retry)
        if not agenda.done():
            _run_missing(agenda, resources, address, display)
        if problem := agenda.problem():
            raise UserError(problem)
        with contextlib.suppress(UserError):  # a file was damaged meanwhile, which the next session sets aside
            merge(ledger, at_least=MANY)
        return Agenda(study, ledger).done()
    finally:
        folder.at(SCRATCH).clear()
        lock.release()


def _run_missing(agenda, resources, address, display) -> None:
    address = address or os.environ.get("RAY_ADDRESS")
    os.environ |= ENVIRONMENT | ({} if address else ALONE)
    import ray
    from ray import tune

    from studies.driver import drive, scratch
    from studies.searcher import Missing

    with _ray(address), _stopping(agenda.ledger.folder):
        if DRIVER not in ray.cluster_resources():
            raise UserError(
                f"the Ray cluster has no resource '{DRIVER}': start its head with --resources='{{\"{DRIVER}\": 1000}}'"
            )
        nodes = _nodes(ray, _launched() if address else {}, resources.labels)
        memory = BASE + max(cost(trial.config, resources.workers).memory for trial in agenda.planned())
        share, concurrent = place(replace(resources, memory=memory), nodes, bool(address))
        order = partial(_order, agenda.study, agenda.ledger, share, _commit())
        tuner = tune.Tuner(
            tune.with_resources(drive, {DRIVER: 1}),
            tune_config=tune.TuneConfig(
                search_alg=Missing(agenda, order),
                num_samples=-1,
                max_concurrent_trials=concurrent,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(name="session", verbose=0, **scratch(agenda.ledger, "tune")),
        )
        with display:
            tuner.fit()


def place(resources: Resources, nodes: list[dict[str, float]], on_demand: bool = False) -> tuple[Resources, int]:
    """What each trial gets, and how many trials find place side by side. Raises UserError if a trial fits on no node, unless
    nodes may be started on demand and what a trial gets and how many there are is said."""
    gpus = resources.gpus if resources.gpus is not None else float(any(node.get("GPU") for node in nodes))
    most = max((node.get("memory", math.inf) for node in nodes), default=0)
    share = replace(resources, gpus=gpus, memory=0 if gpus else int(min(resources.memory, most)))
    wanted = {"CPU": share.cpus, "GPU": share.gpus, "memory": share.memory}
    have = [{"memory": math.inf} | node for node in nodes]
    concurrent = sum(
        min(int(node.get(kind, 0) / amount + 1e-9) for kind, amount in wanted.items() if amount) for node in have
    )
    concurrent //= share.workers
    if not concurrent and on_demand and resources.concurrency and resources.gpus is not None:
        return share, resources.concurrency
    if not concurrent:
        there = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
        several = f"each of a trial's {share.workers} workers" if share.workers > 1 else "a trial"
        labelled = "".join(f", on a node labelled {key}={value}" for key, value in share.labels.items())
        raise UserError(
            f"{several} asks for {share.cpus:g} CPUs and {share.gpus:g} GPUs{labelled}, but no node has them "
            f"(there are: {there or 'none'}): give smaller --cpus, --gpus or --workers, or if nodes are started on demand, "
            "--gpus and --concurrency"
        )
    return share, min(concurrent, resources.concurrency or concurrent)


def _launched() -> dict:
    """What the head of a cluster of `ray up` knows of it; empty elsewhere."""
    try:
        return yaml.safe_load(LAUNCHED.expanduser().read_text())
    except (OSError, yaml.YAMLError):
        return {}


def _nodes(ray, launched: dict, labels: dict[str, str]) -> list[dict[str, float]]:
    """The resources of all nodes with such labels that there are and that a launcher may start. Those that it has to start
    are waited for."""
    types, end = launched.get("available_node_types") or {}, time.monotonic() + NODES_START
    least = sum(one.get("min_workers", 0) for one in types.values() if _has(one.get("labels"), labels))
    while True:
        alive = [node for node in ray.nodes() if node["Alive"] and _has(node.get("Labels"), labels)]
        there = [node["Resources"] for node in alive]
        workers = [node for node in there if DRIVER not in node]
        if len(workers) >= least or time.monotonic() > end:
            break
        time.sleep(1)
    of_workers = [
        one for name, one in types.items() if name != launched["head_node_type"] and _has(one.get("labels"), labels)
    ]
    come = [one["resources"] for one in of_workers for _ in range(one["max_workers"])][: launched.get("max_workers")]
    return [node for node in there if DRIVER in node] + max(workers, come, key=len)


def _has(labels: dict[str, str] | None, wanted: dict[str, str]) -> bool:
    return wanted.items() <= (labels or {}).items()


def _order(study, ledger, share, commit: tuple[str | None, bool], trial: Trial) -> Order:
    return Order(
        store=fixed(ledger.store),
        study=study.name,
        trial=trial.name,
        attempt=ledger.attempts().get(trial.name, 0) + 1,
        config=trial.config.canonical(),
        root=study.roots.get(trial.config.data.name),
        cpus=share.cpus,
        gpus=share.gpus,
        commit=commit[0],
        dirty=commit[1],
        rungs=trial.rungs and asdict(trial.rungs),
        workers=share.workers,
        labels=share.labels,
        memory=share.memory,
    )


@contextlib.contextmanager
def _ray(address: str | None):
    """A Ray of our own on this machine, the cluster at the address, or the one that this process has joined already."""
    import ray

    if ray.is_initialized():
        yield
        return
    _join(ray, address) if address else _start(ray)
    try:
        yield
    finally:
        ray.shutdown()


def _join(ray, address: str) -> None:
    """Raises UserError if no cluster is there; at once where nothing listens, for which Ray itself waits for minutes."""
    host, _, port = address.rpartition(":")
    try:
        if port.isdecimal() and "://" not in address:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        env = {"env_vars": ENVIRONMENT | JOINED}
        ray.init(address=address, logging_level="error", log_to_driver=False, runtime_env=env)
    except (ConnectionError, TimeoutError, socket.gaierror) as error:
        raise UserError(
            f"no Ray cluster at {address} ({error}): give --address HOST:PORT of a head that runs"
        ) from error


def _start(ray) -> None:
    """A Ray that is reached from this machine alone. Raises UserError if the machine is too busy for it."""
    try:
        ray.init(
            resources={DRIVER: 10_000},
            include_dashboard=False,
            logging_level="error",
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
        )
    except Exception as error:  # of which Ray has no kind of its own
        if "timed out during startup" not in str(error):
            raise
        raise UserError(
            "Ray did not start within half a minute, since this machine is too busy: try again later"
        ) from error


@contextlib.contextmanager
def _stopping(folder: Folder):
    """Ctrl-C and SIGTERM make trials leave a checkpoint and end; a second Ctrl-C ends at once."""
    told = threading.Event()

    def stop(number, frame):
        if told.is_set():
            raise KeyboardInterrupt
        told.set()
        folder.write(STOP, b"")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _commit() -> tuple[str | None, bool]:
    """The commit of the code that runs, and whether it was changed since; (None, False) where it is installed."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True, check=True)
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None, False
    return head, bool(changed.strip())
