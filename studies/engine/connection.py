"""The Ray that a session uses: one of its own on this machine, or a cluster that it joins.

A Ray of our own is reached from this machine alone and keeps its files in a short temporary folder, which is removed with it.
A lock that the operating system releases marks the folder as in use: a session that is killed leaves its folder to the next one.
"""

import contextlib
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from filelock import FileLock, Timeout

from diffseg.errors import MachineryError, UserError

DRIVER = "driver"  # the resource that drivers hold, so that CPUs stay whole for workers
CODE = Path(__file__).parent.parent.parent  # where this process found the packages that workers import
PREFIX = "diffseg-ray-"  # of the names of temporary folders
PATH_LIMIT = 103  # bytes of a Unix socket's path, on every system
SOCKET = "/session_2026-11-26_13-00-00_123456_1234567/sockets/plasma_store"  # the longest one in a temporary folder
YOUNG = 60.0  # seconds for which an unlocked folder may belong to a session that is about to lock it
ANSWER = 10.0  # seconds in which a head has to answer
WORKER_START = 300.0  # seconds in which a first worker has to start
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


def cluster_address(given: str | None) -> str | None:
    """The address of the cluster to join, by --address or RAY_ADDRESS; None for a Ray of our own, which is also "local"."""
    address = given or os.environ.get("RAY_ADDRESS")
    return None if address in (None, "", "local") else address


def prepare(address: str | None) -> None:
    """Set what Ray reads from the environment; before ray.tune and ray.train are imported."""
    os.environ |= ENVIRONMENT | ({} if address else ALONE)
    if address is None:
        os.environ.pop("RAY_ADDRESS", None)  # of no cluster that this session uses


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[str]:
    """Join the cluster at the address, or start a Ray of our own; yield where its logs are. A Ray that this process has joined
    already is used as it is.

    Raises UserError if there is no such cluster or no place for Ray's files, MachineryError if Ray does not start.
    After a MachineryError the logs stay until the next session starts.
    """
    import ray

    if ray.is_initialized():
        yield _logs(address)
        return
    folder = None if address else _temporary_folder()
    try:
        _join(ray, address) if address else _start(ray, folder)
        yield _logs(address, folder)
    except MachineryError:
        folder = None
        raise
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
            _locks.pop(folder).release()


def _logs(address: str | None, folder: Path | None = None) -> str:
    return f"{folder}/session_latest/logs" if folder else "session_latest/logs of its nodes' temporary folders"


def check_workers(logs: str) -> None:
    """Raises MachineryError unless a worker starts where drivers go and finds our code there."""
    import ray

    answer = ray.remote(num_cpus=0, resources={DRIVER: 1}, max_retries=0)(_import_driver).remote()
    try:
        ray.get(answer, timeout=WORKER_START)
    except ray.exceptions.GetTimeoutError:
        why = f"none started within {WORKER_START / 60:.0f} minutes"
    except ray.exceptions.RayError as error:
        why = first_line(error)
    else:
        return
    raise MachineryError(f"Ray cannot start the drivers of trials ({why}): its logs are in {logs}")


def _import_driver() -> None:
    import studies.engine.driver  # noqa: F401


def first_line(error: BaseException) -> str:
    """What an error says, or of a traceback its last line, without the full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    traced = any(line.startswith("Traceback") or "ray::" in line for line in lines)
    return (lines[-1 if traced else 0] if lines else type(error).__name__).rstrip(".")


def _join(ray, address: str) -> None:
    """Raises UserError if no cluster is there."""
    env = {"env_vars": ENVIRONMENT | JOINED}
    settings = (
        {} if "://" in address else {"job_config": _job_config()}
    )  # Ray's client sends a configuration of its own
    try:
        _check_listening(address)
        with _own_signals():
            ray.init(address=address, logging_level="error", log_to_driver=False, runtime_env=env, **settings)
    except Exception as error:  # Ray raises all kinds for an address that is none
        raise UserError(
            f"no Ray cluster at {address} ({first_line(error)}): give --address HOST:PORT of a head that runs, or unset RAY_ADDRESS"
        ) from error


def _check_listening(address: str) -> None:
    """Raises OSError or ValueError if nothing that may be a Ray listens at HOST:PORT, for which Ray itself waits for minutes."""
    scheme, _, place = address.rpartition("://")
    if place == "auto":
        return
    host, _, port = place.rpartition(":")
    if scheme not in ("", "ray") or not host or not port.isdecimal():
        raise ValueError("such an address is HOST:PORT, or ray://HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
    if os.environ.get("RAY_USE_TLS", "0") != "0":
        return
    import grpc

    with grpc.insecure_channel(place, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=ANSWER)
        except grpc.FutureTimeoutError:
            raise ConnectionError("what listens there is no Ray") from None


def _start(ray, folder: Path) -> None:
    """A Ray that is reached from this machine alone. Raises MachineryError if it does not start."""
    try:
        with _own_signals():
            ray.init(
                address="local",  # whatever else runs on this machine
                resources={DRIVER: 10_000},
                include_dashboard=False,
                logging_level="error",
                log_to_driver=False,
                job_config=_job_config(),
                _node_ip_address="127.0.0.1",
                _temp_dir=str(folder),
            )
    except Exception as error:  # of which Ray has no kind of its own
        if "timed out during startup" in str(error):
            why = "it took more than half a minute, since this machine is too busy: try again later"
        else:
            why = first_line(error)
        raise MachineryError(
            f"Ray did not start on this machine ({why}): its logs are in {_logs(None, folder)}"
        ) from error


def _job_config():
    """Workers import our packages from where this process has them, and nothing from the folder that it was started in."""
    from ray.job_config import JobConfig

    class OwnPath(JobConfig):
        def _runtime_env_has_working_dir(self) -> bool:
            return True  # else Ray adds this process's folder and its program's to the workers' path

    return OwnPath(_py_driver_sys_path=[] if CODE.name in ("site-packages", "dist-packages") else [str(CODE)])


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """A context in which Ray leaves SIGTERM to the handler that there is. Ray's own ends the program with a status of its own,
    or does nothing where Python ignores exceptions.

    Ray's C++ sets another behind Python's back, which writes a stack and aborts the process three seconds after the signal, so
    that the handler is set anew.
    """
    try:
        with mock.patch("ray._private.utils.set_sigterm_handler"):
            yield
    finally:
        handler = signal.getsignal(signal.SIGTERM)
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _temporary_folder() -> Path:
    """A new, locked folder of a short path for Ray's files; folders of sessions that were killed are removed.

    Raises UserError if there is no place for it.
    """
    for base in _places():
        _remove_abandoned(base)
        try:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        except OSError:
            continue
        _locks[folder] = FileLock(folder / "lock")
        _locks[folder].acquire(blocking=False)
        return folder
    raise UserError(
        f"there is no place for Ray's files: RAY_TMPDIR has to name a folder that can be written and whose path has at most "
        f"{_longest()} bytes"
    )


_locks: dict[Path, FileLock] = {}  # of the folders of this process, held until it ends


def _longest() -> int:
    return PATH_LIMIT - len(SOCKET) - len(f"/{PREFIX}12345678")


def _places() -> list[Path]:
    """Where folders may be made, the best first: what the user says of Ray's files, then of all files, then the system's."""
    given = [os.environ["RAY_TMPDIR"]] if "RAY_TMPDIR" in os.environ else [tempfile.gettempdir(), "/tmp", "/var/tmp"]
    return [Path(one) for one in given if len(os.fsencode(one)) <= _longest() and os.path.isabs(one)]


def _remove_abandoned(base: Path) -> None:
    for folder in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, Timeout):  # others' folders, and those in use
            stat = folder.stat()
            if stat.st_uid == os.getuid() and (folder / "lock").exists() and time.time() - stat.st_mtime > YOUNG:
                with FileLock(folder / "lock", blocking=False):
                    shutil.rmtree(folder, ignore_errors=True)
