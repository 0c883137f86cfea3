"""One running session a study: a lock that the operating system releases when its holder dies, however it dies."""

import fcntl
import json
import os
import socket
from pathlib import Path

from diffseg.errors import UserError


class Lock:
    """Held from `acquire` until the process ends or `release`. The file tells who holds it."""

    def __init__(self, folder: Path):
        self.path = folder / "session.lock"
        self._file = None

    def acquire(self) -> None:
        """Raises UserError naming the holder if another session runs this study."""
        file = self._open()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = json.loads(self.path.read_text() or "{}")
            raise UserError(
                f"study {self.path.parent.name} is being run by process {holder.get('pid')} on {holder.get('host')}: "
                "stop that one, or wait for it (`diffseg status` shows how far it is)"
            ) from None
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        self._file = file

    def held(self) -> bool:
        """Whether some session, this one included, runs the study now."""
        if not self.path.exists():
            return False
        with self._open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def release(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _open(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.path.open("a+")
