"""Local copies of folders behind URIs, in which a node works."""

import hashlib
import logging
import os
import threading
import time
from pathlib import Path
from uuid import uuid4

from studies.store.folder import Folder
from studies.store.outages import write_errors

log = logging.getLogger(__name__)
PUSH_EVERY = 5.0  # seconds between copies of a trial's work to the store


def node_folder() -> Path:
    """Return the folder in which a node keeps its copies of what lies behind URIs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "diffseg"


class LocalCopy:
    """A folder of a store as a path to work in: the folder itself if it is local, else a copy that is pushed back."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        name = hashlib.sha256(f"{folder.filesystem.type_name} {folder.path}".encode()).hexdigest()[:16]
        self.path = folder.local or node_folder() / "copies" / f"{Path(folder.path).name}-{name}"
        self._pushed: dict[str, tuple[int, int]] = {}
        self._lock, self._due = threading.Lock(), 0.0

    def fetch(self) -> Path:
        """Make the copy equal to the store and return its path.

        Files that are missing or of another size are fetched. Others are removed, such as checkpoints that another node
        has replaced since.
        """
        with write_errors(str(self.path)):
            return self._fetch()

    def _fetch(self) -> Path:
        self.path.mkdir(parents=True, exist_ok=True)
        if self.folder.local:
            return self.path
        stored = self.folder.files()
        for file in self.path.rglob("*"):
            if file.is_file() and str(file.relative_to(self.path)) not in stored:
                file.unlink()
        for name, size in stored.items():
            target = self.path / name
            if not (target.is_file() and target.stat().st_size == size):
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.with_name(f".{uuid4().hex}.fetched")
                temporary.write_bytes(self.folder.read(name) or b"")
                temporary.replace(target)
            self._pushed[name] = _stamp(target)
        return self.path

    def push(self) -> None:
        """Write changed files back to the store, and remove there what is gone here. Raises OSError if it is out of reach."""
        if self.folder.local:
            return
        with self._lock:
            found = {str(file.relative_to(self.path)): file for file in self.path.rglob("*") if file.is_file()}
            for name, file in found.items():
                if file.suffix in (".tmp", ".fetched"):
                    continue
                try:
                    stamp = _stamp(file)
                    if self._pushed.get(name) != stamp:
                        self.folder.write(name, file.read_bytes())
                        self._pushed[name] = stamp
                except FileNotFoundError:  # removed meanwhile, as old checkpoints are
                    continue
            for name in self._pushed.keys() - found.keys():
                self.folder.remove(name)
                del self._pushed[name]

    def push_in_background(self) -> None:
        """Push in a thread, every PUSH_EVERY seconds at most. A store that is out of reach is tried again the next time."""
        if self.folder.local or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + PUSH_EVERY
        if not self._lock.locked():
            threading.Thread(target=self._push_or_warn, daemon=True).start()

    def _push_or_warn(self) -> None:
        try:
            self.push()
        except OSError as error:
            log.warning("the store cannot be reached (%s): trying again", error)


def _stamp(file: Path) -> tuple[int, int]:
    """Return a file's time of modification in ns and its size in bytes."""
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size
