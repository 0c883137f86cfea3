"""One running session a study: a lock that the operating system releases when its holder dies, however it dies."""

import fcntl
import json
import os
import socket
import time
from pathlib import Path

from diffseg.errors import UserError

PATIENCE = 1.0  # seconds to wait for those who only look whether the lock is held


class Lock:
    """Held from `acquire` until `release` or the end of the process. The file tells who holds it."""

    def __init__(self, folder: Path):
        self.path = folder / "session.lock"
        self._file = None

    def acquire(self) -> None:
        """Raises UserError if another session runs this study, naming it, or if the folder cannot be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a+")
        except OSError as error:
            raise UserError(
                f"the store's folder {self.path.parent} cannot be written ({error}): give another with --store DIR"
            ) from None
        end = time.monotonic() + PATIENCE
        while not _locked(file, fcntl.LOCK_EX):
            if time.monotonic() > end:
                file.close()
                raise UserError(self._holder())
            time.sleep(0.05)
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        self._file = file

    def held(self) -> bool:
        """Whether some session, this one included, runs the study now."""
        try:
            with self.path.open() as file:
                return not _locked(file, fcntl.LOCK_SH)
        except OSError:
            return False

    def release(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _holder(self) -> str:
        holder = json.loads(self.path.read_text() or "{}")
        return (
            f"study {self.path.parent.name} is being run by process {holder.get('pid')} on {holder.get('host')}: "
            "stop that one, or wait for it (`diffseg status` shows how far it is)"
        )


def _locked(file, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
