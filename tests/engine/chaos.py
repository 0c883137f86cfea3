"""Rounds of chaos: a small study runs on a cluster of three nodes within this machine, with a fault every few seconds.

    python tests/engine/chaos.py --rounds 20

The faults are killed workers, drivers, nodes, heads and sessions, nodes that do not answer for a while, and drained nodes.
The store is a folder whose disk is full for a while (if root runs this, who may mount one). In every fourth round it is an
S3 bucket whose server does not answer for up to a minute. After each round the ledger must hold the same as that of an
undisturbed run, bit for bit, with one attempt for each trial.
"""

import argparse
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import test_session

from studies.engine.environment import ENVIRONMENT, ON_THIS_MACHINE
from studies.store.ledger import Ledger
from studies.store.tables import SCHEMAS

ROOT = Path(__file__).parent.parent.parent
SHORT = test_session.STUDY.replace("steps = 300", "steps = 120").replace("every = 20", "every = 10")
STUDY = f"seeds = [0, 1, 2]\n{SHORT}"
VARYING = {  # columns that differ between two runs; a checkpoint's name depends on its content, which holds the seconds
    "seconds", "train_seconds", "evaluate_seconds", "gpu_seconds", "started", "finished", "log", "error", "checkpoint",
}  # fmt: skip
TIMINGS = {"step_seconds", "idle_share"}  # curves that depend on the machine
DISK = "600m"
WEIGHTS = {"worker": 4, "driver": 2, "node": 2, "silence": 2, "drain": 2, "session": 1, "head": 1}  # of faults
START_TRIES = 6
PAUSE = (5.0, 12.0)  # seconds between two faults


def retry_start(action: Callable[[], None]) -> None:
    """Start a node, with START_TRIES tries: Ray waits half a minute, which may be too short on a busy machine."""
    for left in reversed(range(START_TRIES)):
        try:
            return action()
        except Exception:
            if not left:
                raise


class Machine:
    """A cluster of a head that holds drivers, and of two nodes that train, with one processor each."""

    memory = {"object_store_memory": 100 * 2**20}

    def __init__(self):
        os.environ |= ENVIRONMENT | ON_THIS_MACHINE
        self.start()

    def start(self) -> None:
        """Start the cluster."""
        retry_start(self._start)

    def _start(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "resources": {"driver": 1000}, **self.memory}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = []
        for _ in range(2):
            self.add_node()

    def add_node(self) -> None:
        """Add a node that trains."""
        self.nodes.append(self.cluster.add_node(num_cpus=1, **self.memory))

    def run_session(self, folder: Path, store: str) -> subprocess.Popen:
        """Start a session of the study in a folder, which logs beside it."""
        line = [sys.executable, "-m", "studies", "run", str(folder / "small.toml"), "--store", store]
        line += ["--no-report", "--address", self.cluster.address]
        with folder.with_suffix(".log").open("a") as log:
            return subprocess.Popen(line, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)

    def find_processes(self, title: str) -> list[psutil.Process]:
        """Find the processes of this cluster, and of no other on the machine, whose title starts so."""
        found = []
        for node in (self.cluster.head_node, *self.nodes):
            for process in self.raylet(node).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "".join(process.cmdline()).startswith(title):
                        found.append(process)
        return found

    def raylet(self, node) -> psutil.Process:
        """Find the process of Ray that manages a node."""
        return psutil.Process(node.all_processes["raylet"][0].process.pid)

    def shut_down(self) -> None:
        """End all processes of the cluster."""
        self.cluster.shutdown()


@dataclass(frozen=True)
class Store:
    """The place of a round's study, and the functions that break it for a while, by the names of the faults."""

    place: str
    breaks: dict[str, Callable[[random.Random], None]]


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[Store]:
    """Mount a disk for the folder, which can be filled without harm. Only root may; without it nothing breaks."""
    place = str(folder / "store")
    if os.geteuid():
        yield Store(place, {})
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder], check=True)
    try:
        yield Store(place, {"full": lambda draw: fill(folder, draw.uniform(1, 4))})
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def bucket(folder: Path) -> Iterator[Store]:
    """Start an S3 server with a bucket. The server can be suspended."""
    import boto3

    os.environ |= {"AWS_ACCESS_KEY_ID": "chaos", "AWS_SECRET_ACCESS_KEY": "chaos", "AWS_DEFAULT_REGION": "us-east-1"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (folder / "s3.log").open("w")
    server = psutil.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stdout=log, stderr=log)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert server.poll() is None
            time.sleep(0.1)
        boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}").create_bucket(Bucket="store")
        place = f"s3://store/studies?scheme=http&endpoint_override=127.0.0.1:{port}"
        yield Store(place, {"away": lambda draw: silence(server, draw.choice([3, 10, 60]))})
    finally:
        server.kill()


def fill(folder: Path, seconds: float) -> None:
    """Fill the folder's disk for some seconds."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**20))
    time.sleep(seconds)
    filler.unlink()


def silence(process: psutil.Process, seconds: float) -> None:
    """Suspend a process for some seconds, as if its network were cut."""
    process.suspend()
    time.sleep(seconds)
    process.resume()


def cause_fault(machine: Machine, session: subprocess.Popen, draw: random.Random, store: Store) -> str:
    """Cause a random fault; return its name, or "" if there was nothing to break."""
    weights = WEIGHTS | dict.fromkeys(store.breaks, 2)
    (kind,) = draw.choices(list(weights), list(weights.values()))
    if kind in store.breaks:
        store.breaks[kind](draw)
    elif kind in ("worker", "driver"):
        victims = machine.find_processes("ray::RayTrainWorker" if kind == "worker" else "ray::ImplicitFunc")
        if not victims:
            return ""
        draw.choice(victims).kill()
    elif kind in ("session", "head"):  # on a head, its session dies with it
        os.killpg(session.pid, signal.SIGKILL)
        session.wait()
        if kind == "head":
            machine.shut_down()
            machine.start()
    elif kind == "silence":
        silence(machine.raylet(draw.choice(machine.nodes)), draw.uniform(1, 4))
    else:
        node = machine.nodes.pop(draw.randrange(2))
        if kind == "drain":
            line = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", machine.cluster.address]
            line += ["--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "chaos"]
            subprocess.run([*line, "--deadline-remaining-seconds", "3"], capture_output=True)
            time.sleep(3)
        machine.cluster.remove_node(node, allow_graceful=False)
        retry_start(machine.add_node)
    return kind


def read_contents(ledger: Ledger) -> dict[str, list[str]]:
    """Read all rows of all tables, without columns that vary between runs; as text, since some numbers are NaN."""
    found = {}
    for table in SCHEMAS:
        rows = [{k: v for k, v in row.items() if k not in VARYING} for row in ledger.read(table).to_pylist()]
        found[table] = sorted(str(row) for row in rows if row.get("metric") not in TIMINGS)
    return found


def run_undisturbed(folder: Path) -> dict[str, list[str]]:
    """Run the study without faults; return its contents."""
    folder.mkdir(parents=True)
    (folder / "small.toml").write_text(STUDY)
    machine, store = Machine(), str(folder / "store")
    try:
        assert machine.run_session(folder, store).wait(1800) == 0, folder.with_suffix(".log").read_text()
    finally:
        machine.shut_down()
    return read_contents(Ledger(store, "small"))


def run_round(folder: Path, seed: int, expected: dict[str, list[str]], limit: float = 3600) -> Counter:
    """Run one round; count its faults by name. Raises AssertionError if a row is lost, doubled or different."""
    folder.mkdir(parents=True)
    with (bucket if seed % 4 == 1 else disk)(folder) as store:
        (folder / "small.toml").write_text(STUDY)
        return _run_disturbed(folder, seed, expected, limit, store)


def _run_disturbed(folder: Path, seed: int, expected, limit: float, store: Store) -> Counter:
    machine, draw, faults = Machine(), random.Random(seed), Counter()
    try:
        session, end = machine.run_session(folder, store.place), time.monotonic() + limit
        while True:
            assert time.monotonic() < end, f"not done after {limit} s and {faults}"
            try:
                status = session.wait(draw.uniform(*PAUSE))
            except subprocess.TimeoutExpired:
                faults[cause_fault(machine, session, draw, store)] += 1
                if session.poll() is None:
                    continue
                status = session.returncode
            if status == 0:
                break
            log = folder.with_suffix(".log").read_text()
            assert "trials failed" not in log, log
            time.sleep(3)  # behind a URI, the lock of a killed session ends after a minute
            session = machine.run_session(folder, store.place)  # the same command again
    finally:
        machine.shut_down()
    ledger = Ledger(store.place, "small")
    assert set(ledger.last_attempts().values()) == {1}, ledger.last_attempts()
    found = read_contents(ledger)
    for table, rows in expected.items():
        assert found[table] == rows, f"{table} differs"
    del faults[""]
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        expected, total, clock = run_undisturbed(Path(place) / "undisturbed"), Counter(), time.monotonic()
        print(f"undisturbed: {len(expected['trials'])} trials", flush=True)
        for number in range(given.rounds):
            faults = run_round(Path(place) / f"round-{number}", given.seed + number, expected)
            total += faults
            print(f"round {number}: {dict(faults)}, {time.monotonic() - clock:.0f} s in all", flush=True)
        print(f"{given.rounds} rounds, {sum(total.values())} faults ({dict(total)}): no row lost, doubled or different")


if __name__ == "__main__":
    main()
