"""The Ray that a session uses: one that it starts on this machine, or a cluster that it joins.

A Ray that it starts is reached from this machine alone and keeps its files in a temporary folder (`ray_folder`).
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from diffseg.errors import MachineryError, UserError
from studies.engine.environment import ENVIRONMENT, ON_CLUSTERS
from studies.engine.ray_folder import make_folder, remove_folder
from studies.engine.resources import DRIVER

CODE = Path(__file__).parent.parent.parent  # where this process found the packages that workers import
ANSWER = 10.0  # seconds in which a head has to answer
WORKER_START = 300.0  # seconds in which a first worker has to start


@contextlib.contextmanager
def connect(address: str | None) -> Iterator[str]:
    """Join the cluster at an address, or start a Ray on this machine; yield where its logs are.

    A Ray that this process has joined already is used as it is. After a MachineryError the logs stay until the next
    session starts.

    Raises:
        UserError: There is no such cluster, or no place for Ray's files.
        MachineryError: Ray does not start.
    """
    import ray

    if ray.is_initialized():
        yield _logs(address)
        return
    folder = None if address else make_folder()
    try:
        if address:
            _join(ray, address)
        else:
            _start(ray, folder)
        yield _logs(address, folder)
    except MachineryError:
        folder = None  # kept for its logs
        raise
    finally:
        ray.shutdown()
        if folder:
            remove_folder(folder)


def _logs(address: str | None, folder: Path | None = None) -> str:
    return f"{folder}/session_latest/logs" if folder else "session_latest/logs of its nodes' temporary folders"


def check_workers(logs: str) -> None:
    """Start a worker where drivers go, and raise MachineryError if it does not start or cannot import our code."""
    import ray

    answer = ray.remote(num_cpus=0, resources={DRIVER: 1}, max_retries=0)(_import_driver).remote()
    try:
        ray.get(answer, timeout=WORKER_START)
    except ray.exceptions.GetTimeoutError:
        why = f"none started within {WORKER_START / 60:.0f} minutes"
    except ray.exceptions.RayError as error:
        why = summarise(error)
    else:
        return
    raise MachineryError(f"Ray cannot start the drivers of trials ({why}): its logs are in {logs}")


def _import_driver() -> None:
    """Import what drivers run, as a task on the head: it fails there if this program or its packages are missing."""
    import studies.engine.driver  # noqa: F401


def summarise(error: BaseException) -> str:
    """Return one line of an error: the last one of a traceback, else the first one, without the full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    has_traceback = any(line.startswith("Traceback") or "ray::" in line for line in lines)
    return (lines[-1 if has_traceback else 0] if lines else type(error).__name__).rstrip(".")


def _join(ray: Any, address: str) -> None:
    """Join a cluster. Raises UserError if there is none at the address."""
    settings: dict[str, Any] = {"runtime_env": {"env_vars": ENVIRONMENT | ON_CLUSTERS}}
    if "://" not in address:  # else Ray's client sends a job configuration of its own
        settings["job_config"] = _job_config()
    try:
        _check_listening(address)
        with _keep_signal_handler():
            ray.init(address=address, logging_level="error", log_to_driver=False, **settings)
    except Exception as error:  # Ray raises all kinds for a wrong address
        raise UserError(
            f"no Ray cluster at {address} ({summarise(error)}): give --address HOST:PORT of a head that runs, or unset RAY_ADDRESS"
        ) from error


def _check_listening(address: str) -> None:
    """Raise OSError or ValueError unless something that may be a Ray listens at HOST:PORT: Ray itself waits for minutes."""
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


def _start(ray: Any, folder: Path | None) -> None:
    """Start a Ray that is reached from this machine alone. Raises MachineryError if it does not start."""
    try:
        with _keep_signal_handler():
            ray.init(
                address="local",  # even if another Ray runs on this machine
                resources={DRIVER: 10_000},
                include_dashboard=False,
                logging_level="error",
                log_to_driver=False,
                job_config=_job_config(),
                _node_ip_address="127.0.0.1",
                _temp_dir=str(folder),
            )
    except Exception as error:  # Ray has no kind of its own for this
        if "timed out during startup" in str(error):
            why = "it took more than half a minute, since this machine is too busy: try again later"
        else:
            why = summarise(error)
        raise MachineryError(
            f"Ray did not start on this machine ({why}): its logs are in {_logs(None, folder)}"
        ) from error


def _job_config() -> Any:
    """Make workers import our packages from where this process has them, and nothing from the current folder."""
    from ray.job_config import JobConfig

    class OwnPath(JobConfig):  # type: ignore[misc]  # Ray is untyped here
        def _runtime_env_has_working_dir(self) -> bool:
            return True  # else Ray adds this process's folder and its program's to the workers' path

    return OwnPath(_py_driver_sys_path=[] if CODE.name in ("site-packages", "dist-packages") else [str(CODE)])


@contextlib.contextmanager
def _keep_signal_handler() -> Iterator[None]:
    """Keep our handler of SIGTERM while Ray starts.

    Ray's own handler ends the program with a status of its own, or does nothing where Python ignores exceptions. Ray's C++
    sets another one behind Python's back, which writes a stack and aborts the process three seconds after the signal; so
    our handler is set again at the end.
    """
    try:
        with mock.patch("ray._private.utils.set_sigterm_handler"):
            yield
    finally:
        handler = signal.getsignal(signal.SIGTERM)
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
