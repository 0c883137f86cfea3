"""The lock of a study: one session at a time runs it. The lock ends with its holder, however the holder ends.

The holder writes `session.json` (host, process, start of the process) and renews it every BEAT seconds. Readers see by this
record, without touching the lock, whether the study is being run: on the holder's host by its process, elsewhere by the age
of the record.

In a local folder the lock itself is `session.lock`, by filelock: the operating system's lock (flock, also on NFS), or a lease
that its holder renews if the file system has no locks. The lease of a dead process is taken over at once on its own host,
and on other hosts once it has not been renewed for FRESH seconds.

Behind a URI the record is the lock. A session that takes it reads it again to detect a race, since pyarrow's file systems
do not offer the conditional writes of object stores (S3's If-None-Match).
"""

import contextlib
import errno
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from diffseg.errors import StoreError, UserError
from studies.store.folder import Folder
from studies.store.outages import write_errors

if TYPE_CHECKING:
    from filelock import BaseFileLock

NAME = "session.json"  # the record of the session that runs the study
GUARD = "session.lock"
PATIENCE = 1.0  # seconds to wait for a session that is about to end
POLL = 0.05  # seconds between two attempts to take a lock
BEAT = 10.0  # seconds between two renewals of the record
FRESH = 60.0  # seconds after its last renewal for which a lock counts
SETTLE = 1.0  # seconds after which two sessions that took the lock at once both see which one was last
WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}  # errors of file systems without locks
log = logging.getLogger(__name__)


class Lock:
    """The lock of the study in a folder, held from `acquire` until `release` or the end of the process."""

    def __init__(self, folder: Folder) -> None:
        self.folder, self._ended = folder, threading.Event()
        self._record = json.dumps(_this_process() | {"id": uuid4().hex}).encode()
        self._guard: BaseFileLock | None = None
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lock. Raises UserError if another session runs the study, naming it, or if the folder cannot be written."""
        if self.folder.local:
            self._guard = _lock_file(self.folder.local / GUARD, lambda: _refusal(self.folder))
        elif self.is_held():
            raise _refusal(self.folder, f"; if it was killed, its lock ends {FRESH:.0f} s after it")
        try:
            self.folder.write(NAME, self._record)
            if not self.folder.local:
                time.sleep(SETTLE)
                if self.folder.read(NAME) != self._record:
                    raise _refusal(self.folder)
        except UserError:
            self._release_file()
            raise
        self._ended.clear()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def is_held(self) -> bool:
        """Return whether a session, this one included, runs the study now. Takes and writes nothing."""
        age = self.folder.age(NAME)
        if age is None:
            return False
        holder = _holder(self.folder)
        if holder.get("host") == _this_process()["host"]:
            return _start_of(holder.get("pid")) == holder.get("started")
        return age < FRESH

    def release(self) -> None:
        """Give the lock back. Does nothing if it is not held."""
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        self._thread = None
        with contextlib.suppress(StoreError):  # the record no longer counts once its process has ended
            self.folder.remove(NAME)
        self._release_file()

    def _renew(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                self.folder.write(NAME, self._record)
            except StoreError as error:
                log.warning("the session's lock cannot be renewed (%s): trying again in %.0f s", error, BEAT)

    def _release_file(self) -> None:
        if self._guard:
            with contextlib.suppress(OSError):
                self._guard.release(force=True)
            self._guard = None


def _lock_file(path: Path, refusal: Callable[[], UserError]) -> "BaseFileLock":
    """Take the operating system's lock of a file, or a lease if there are no locks. Raises `refusal()` if it is taken."""
    from filelock import FileLock, SoftFileLease, Timeout  # takes long to import, and readers need no lock

    with write_errors(str(path.parent)):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock: BaseFileLock = FileLock(path, fallback_to_soft=False, thread_local=False, poll_interval=POLL)
        try:
            lock.acquire(timeout=PATIENCE)
            return lock
        except Timeout:
            raise refusal() from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
        lease = path.with_suffix(".lease")
        lock = SoftFileLease(
            lease, lease_duration=FRESH, heartbeat_interval=BEAT, thread_local=False, poll_interval=POLL
        )
        try:
            lock.acquire(timeout=FRESH + BEAT if _is_stale(lease) else PATIENCE)
            return lock
        except Timeout:
            raise refusal() from None


def _is_stale(lease: Path) -> bool:
    """Return whether a lease's holder has probably died on another host, so that it is worth waiting for the end of the lease."""
    try:
        return time.time() - lease.stat().st_mtime > 2 * BEAT
    except OSError:
        return False


def _this_process() -> dict[str, Any]:
    """Return what a record says of its holder: process, host and start."""
    return {"pid": os.getpid(), "host": _host(), "started": _start_of(os.getpid())}


def _host() -> str:
    """Return this machine's name and its namespace of process numbers, which a container has for itself."""
    with contextlib.suppress(OSError):
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').stat().st_ino:x}"
    return socket.gethostname()


def _start_of(pid: object) -> str | None:
    """Return when a process of this host was started, by boot and clock tick; None if it does not run."""
    if not isinstance(pid, int):
        return None
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:  # no such process, or no /proc
        return None if Path("/proc/self").exists() else _start_without_proc(pid)
    return None if status[0] == "Z" else f"{boot} {status[19]}"


def _start_without_proc(pid: int) -> str | None:
    """Return "unknown" if a process runs, else None, on a system without /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "unknown"


def _holder(folder: Folder) -> dict[str, Any]:
    """Return the record of the session that runs the study; empty if it cannot be read."""
    try:
        found = json.loads(folder.read(NAME) or "")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _refusal(folder: Folder, more: str = "") -> UserError:
    """Return the error that names the session that runs the study."""
    holder = _holder(folder)
    host = str(holder.get("host", "")).partition(" ")[0] or "another host"
    return UserError(
        f"study {folder.path.rpartition('/')[2]} is being run by process {holder.get('pid', 'unknown')} on {host}: "
        f"stop that one, or wait for it (`diffseg status` shows how far it is){more}"
    )
