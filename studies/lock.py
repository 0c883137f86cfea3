"""One running session a study: a lock that ends with its holder, however that ends.

In a folder the operating system releases it. Behind a URI it is a file that its holder writes anew every BEAT seconds, and
that counts as long as it is fresh; who takes it looks again whether it is theirs, since no store of objects can say so.
"""

import fcntl
import json
import os
import socket
import threading
import time
from uuid import uuid4

from diffseg.errors import UserError
from studies.folder import Folder, patiently

NAME = "session.lock"
PATIENCE = 1.0  # seconds to wait for those who only look whether the lock is held
BEAT = 10.0  # seconds
FRESH = 60.0  # seconds after its last beat for which a lock counts
SETTLE = 1.0  # seconds after which two who took it at once both see who was last


class Lock:
    """Held from `acquire` until `release` or the end of the process. The file tells who holds it."""

    def __init__(self, folder: Folder):
        self._lock = _OfFolder(folder) if folder.local else _BehindUri(folder)

    def acquire(self) -> None:
        """Raises UserError if another session runs this study, naming it, or if the folder cannot be written."""
        self._lock.acquire()

    def held(self) -> bool:
        """Whether some session, this one included, runs the study now."""
        return self._lock.held()

    def release(self) -> None:
        self._lock.release()


class _OfFolder:
    def __init__(self, folder: Folder):
        self.folder, self.path = folder, folder.local / NAME
        self._file = None

    def acquire(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a+")
        except OSError as error:
            raise _unusable(self.folder, error) from None
        end = time.monotonic() + PATIENCE
        while not _locked(file, fcntl.LOCK_EX):
            if time.monotonic() > end:
                file.close()
                raise _taken(self.folder)
            time.sleep(0.05)
        file.truncate(0)
        file.write(json.dumps(_me()))
        file.flush()
        self._file = file

    def held(self) -> bool:
        try:
            with self.path.open() as file:
                return not _locked(file, fcntl.LOCK_SH)
        except OSError:
            return False

    def release(self) -> None:
        if self._file:
            self._file.close()
            self._file = None


class _BehindUri:
    def __init__(self, folder: Folder):
        self.folder, self._ended = folder, threading.Event()
        self._mine = json.dumps(_me() | {"id": uuid4().hex}).encode()
        self._thread = None

    def acquire(self) -> None:
        try:
            if self.held():
                raise _taken(self.folder, f"; if it was killed, its lock ends {FRESH:.0f} s after it")
            self.folder.write(NAME, self._mine)
            time.sleep(SETTLE)
            if self.folder.read(NAME) != self._mine:
                raise _taken(self.folder)
        except OSError as error:
            raise _unusable(self.folder, error) from None
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def held(self) -> bool:
        age = self.folder.age(NAME)
        return age is not None and age < FRESH

    def release(self) -> None:
        if self._thread:
            self._ended.set()
            self._thread.join()
            self._thread = None
            self.folder.remove(NAME)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            patiently(lambda: self.folder.write(NAME, self._mine))


def _me() -> dict:
    return {"pid": os.getpid(), "host": socket.gethostname()}


def _taken(folder: Folder, more: str = "") -> UserError:
    holder = json.loads(folder.read(NAME) or "{}")
    return UserError(
        f"study {folder.path.rpartition('/')[2]} is being run by process {holder.get('pid')} on {holder.get('host')}: "
        f"stop that one, or wait for it (`diffseg status` shows how far it is){more}"
    )


def _unusable(folder: Folder, error: OSError) -> UserError:
    return UserError(f"the store's folder {folder.path} cannot be written ({error}): give another with --store DIR")


def _locked(file, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
