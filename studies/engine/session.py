"""A session: what `run` does. It looks at the ledger, has Ray do what is missing, and may be stopped at any moment.

Nothing of Ray's own experiment state is kept: the next session looks at the ledger again.
"""

import contextlib
import math
import subprocess
import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import yaml

from diffseg.errors import MachineryError, UserError
from studies.definition.study import Study
from studies.definition.trial import Trial
from studies.engine.connection import DRIVER, check_workers, cluster_address, connected, first_line, prepare
from studies.engine.display import Display
from studies.engine.scheduler import Agenda
from studies.engine.signals import Signals
from studies.engine.worker import SCRATCH, STOP, Order
from studies.planning.datasets import examine
from studies.planning.estimate import cost
from studies.store.compaction import COMPACT_FROM, compact_locked, remove_replaced
from studies.store.folder import absolute_place
from studies.store.ledger import Ledger
from studies.store.lock import Lock
from studies.store.outages import retry_outages

LAUNCHED = Path("~/ray_bootstrap_config.yaml")  # what a head knows of the nodes that it may start
NODES_START = 600.0  # seconds that nodes which always run may take to start
BASE = 2**30  # bytes of a worker without a trial


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

    Raises UserError if the store or a data set cannot be used, the study is being run already, its trials fit on no
    node, or a search has no prospect of success, and MachineryError if Ray does not start or cannot run trials.
    """
    agenda = Agenda(study, ledger, retry)
    planned = agenda.planned()
    display = Display(
        study, ledger, planned, quiet
    )  # it finds sizes that a network cannot take, before anything is written
    if not agenda.done():
        examine(planned, study.roots, ledger.store, elsewhere=cluster_address(address) is not None)
    folder, lock = ledger.folder, Lock(ledger.folder)
    lock.acquire()
    try:
        Agenda(study, ledger).check()
        ledger.define(study.definition())
        folder.remove(STOP)
        for leftover in (SCRATCH, "tmp"):  # of a session that was killed
            folder.at(leftover).clear()
        remove_replaced(ledger)
        ledger.set_aside_damaged()
        agenda = Agenda(study, ledger, retry)
        if not agenda.done():
            try:
                _run_missing(agenda, resources, address, display)
            except KeyboardInterrupt:
                return False
        if problem := agenda.problem():
            raise UserError(problem)
        with contextlib.suppress(UserError):  # a file was damaged meanwhile, which the next session sets aside
            compact_locked(ledger, at_least=COMPACT_FROM)
        return Agenda(study, ledger).done()
    finally:
        folder.at(SCRATCH).clear()
        lock.release()


def _run_missing(agenda: Agenda, resources: Resources, address: str | None, display: Display) -> None:
    """Raises MachineryError if trials are left that nobody has asked to stop."""
    address, folder = cluster_address(address), agenda.ledger.folder
    prepare(address)
    import ray
    from ray import tune

    from studies.engine.driver import drive, scratch
    from studies.engine.searcher import Missing

    with Signals() as signals, connected(address) as logs:
        signals.gently(lambda: retry_outages(lambda: folder.write(STOP, b"")))
        if DRIVER not in ray.cluster_resources():
            raise UserError(
                f"the Ray cluster has no resource '{DRIVER}': start its head with --resources='{{\"{DRIVER}\": 1000}}'"
            )
        check_workers(logs)
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
            found = _fit(tuner, logs)
        if not (agenda.done() or agenda.problem() or folder.exists(STOP)):
            raise _unfinished(agenda, found, logs)


def _fit(tuner, logs: str):
    """Raises MachineryError if Ray or the store is gone."""
    from ray.exceptions import RayError
    from ray.tune import TuneError

    try:
        return tuner.fit()
    except (RayError, TuneError, OSError) as error:
        raise MachineryError(
            f"Ray or the store failed ({first_line(error)}), Ray's logs are in {logs}: the same command goes on from the last "
            "checkpoints"
        ) from error


def _unfinished(agenda: Agenda, found, logs: str) -> MachineryError:
    why = f", the last one by {first_line(found.errors[-1])}" if found.errors else ""
    return MachineryError(
        f"the drivers of trials of {agenda.study.name} ended again and again{why}: Ray's logs are in {logs}, and the same command "
        "goes on with what is missing"
    )


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
        return yaml.safe_load(LAUNCHED.expanduser().read_text(encoding="utf-8"))
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
        store=absolute_place(ledger.store),
        study=study.name,
        trial=trial.name,
        attempt=ledger.last_attempts().get(trial.name, 0) + 1,
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


def _commit() -> tuple[str | None, bool]:
    """The commit of the code that runs, and whether it was changed since; (None, False) where it is installed."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True, check=True)
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, encoding="utf-8", errors="replace", check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, encoding="utf-8", errors="replace", check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None, False
    return head, bool(changed.strip())
