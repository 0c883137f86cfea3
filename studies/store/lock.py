"""One running session a study: a lock that ends with its holder, however that ends.

The holder writes `session.json` (host, process, the process's start) and writes it anew every BEAT seconds. By this record,
and without touching the lock, readers see whether a study is being run: on the holder's host by its process, elsewhere by
the record's age.

The lock itself is, in a folder, `session.lock` by filelock: the operating system's lock (flock, also on NFS), and where the
file system has none, a lease that its holder renews. A lease of a dead process is taken over at once on its host, and
elsewhere once it has stood still for FRESH seconds. Behind a URI the record is the lock: the session that takes it re-reads
it to detect a race. Stores of objects have conditional writes (S3's If-None-Match), but pyarrow's file systems do not
offer them.
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
from uuid import uuid4

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from diffseg.errors import StoreError, UserError
from studies.store.folder import Folder
from studies.store.outages import write_errors

NAME = "session.json"  # who runs the study
GUARD = "session.lock"
PATIENCE = 1.0  # seconds to wait for a session that is about to end
BEAT = 10.0  # seconds
FRESH = 60.0  # seconds after its last beat for which a lock counts
SETTLE = 1.0  # seconds after which two that took it at once both see who was last
WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}  # what file systems without locks answer
log = logging.getLogger(__name__)


class Lock:
    """Held from `acquire` until `release` or the end of the process."""

    def __init__(self, folder: Folder):
        self.folder, self._ended = folder, threading.Event()
        self._mine = json.dumps(_me() | {"id": uuid4().hex}).encode()
        self._guard: BaseFileLock | None = None
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Raises UserError if another session runs this study, naming it, or if the folder cannot be written."""
        if self.folder.local:
            self._guard = _guarded(self.folder.local / GUARD, lambda: _taken(self.folder))
        elif self.is_held():
            raise _taken(self.folder, f"; if it was killed, its lock ends {FRESH:.0f} s after it")
        try:
            self.folder.write(NAME, self._mine)
            if not self.folder.local:
                time.sleep(SETTLE)
                if self.folder.read(NAME) != self._mine:
                    raise _taken(self.folder)
        except UserError:
            self._unguard()
            raise
        self._ended.clear()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def is_held(self) -> bool:
        """Whether some session, this one included, runs the study now. Takes and writes nothing."""
        age = self.folder.age(NAME)
        if age is None:
            return False
        holder = _holder(self.folder)
        if holder.get("host") == _me()["host"]:
            return _started(holder.get("pid")) == holder.get("started")
        return age < FRESH

    def release(self) -> None:
        """Give the lock back; does nothing if it is not held."""
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        self._thread = None
        with contextlib.suppress(StoreError):  # the record of a process that has ended counts no longer anyway
            self.folder.remove(NAME)
        self._unguard()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                self.folder.write(NAME, self._mine)
            except StoreError as error:
                log.warning("the session's lock cannot be renewed (%s): trying again in %.0f s", error, BEAT)

    def _unguard(self) -> None:
        if self._guard:
            with contextlib.suppress(OSError):
                self._guard.release(force=True)
            self._guard = None


def _guarded(path: Path, taken: Callable[[], UserError]) -> BaseFileLock:
    """The operating system's lock of a file, held, or where there is none, a lease. Raises what `taken` makes of a refusal."""
    options = {"thread_local": False, "poll_interval": 0.05}
    with write_errors(str(path.parent)):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock: BaseFileLock = FileLock(path, fallback_to_soft=False, **options)
        try:
            lock.acquire(timeout=PATIENCE)
            return lock
        except Timeout:
            raise taken() from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
        lease = path.with_suffix(".lease")
        lock = SoftFileLease(lease, lease_duration=FRESH, heartbeat_interval=BEAT, **options)
        try:
            lock.acquire(timeout=FRESH + BEAT if _stands_still(lease) else PATIENCE)
            return lock
        except Timeout:
            raise taken() from None


def _stands_still(lease: Path) -> bool:
    """Whether a lease looks as if its holder had died on another host, so that waiting for its end makes sense."""
    try:
        return time.time() - lease.stat().st_mtime > 2 * BEAT
    except OSError:
        return False


def _me() -> dict:
    return {"pid": os.getpid(), "host": _host(), "started": _started(os.getpid())}


def _host() -> str:
    """This machine's name, and the container's number where processes are counted separately in it."""
    with contextlib.suppress(OSError):
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').stat().st_ino:x}"
    return socket.gethostname()


def _started(pid: object) -> str | None:
    """When a process of this host was started, in the system's own unit; None if it does not run."""
    if not isinstance(pid, int):
        return None
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:  # no such process, or no /proc
        return None if Path("/proc/self").exists() else _alive(pid)
    return None if status[0] == "Z" else f"{boot} {status[19]}"


def _alive(pid: int) -> str | None:
    """The same where there is no /proc: it cannot be said when it was started."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "unknown"


def _holder(folder: Folder) -> dict:
    """The record of the session that runs the study; empty if it cannot be read as one."""
    try:
        found = json.loads(folder.read(NAME) or "")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _taken(folder: Folder, more: str = "") -> UserError:
    holder = _holder(folder)
    host = str(holder.get("host", "")).partition(" ")[0] or "another host"
    return UserError(
        f"study {folder.path.rpartition('/')[2]} is being run by process {holder.get('pid', 'unknown')} on {host}: "
        f"stop that one, or wait for it (`diffseg status` shows how far it is){more}"
    )
