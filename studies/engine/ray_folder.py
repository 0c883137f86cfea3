"""The temporary folder of a Ray on this machine: of a short path, locked while it is used, and removed with its Ray.

The operating system releases the lock of a session that is killed. The next session then removes the folder.
"""

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout

from diffseg.errors import UserError

PREFIX = "diffseg-"  # of the names of folders: short, since a socket's path is
PATH_LIMIT = 103  # bytes of a Unix socket's path, on every system
SOCKET = "/session_2026-11-26_13-00-00_123456_1234567/sockets/plasma_store"  # the longest path below a folder
YOUNG = 60.0  # seconds for which an unlocked folder may belong to a session that is about to lock it

_locks: dict[Path, FileLock] = {}  # of the folders of this process, held until it ends


def make_folder() -> Path:
    """Make and lock a folder; first remove those that killed sessions left.

    Raises:
        UserError: No place has a path short enough and can be written.
    """
    for base in _places():
        remove_abandoned(base)
        try:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        except OSError:
            continue
        _locks[folder] = FileLock(folder / "lock")
        _locks[folder].acquire(blocking=False)
        return folder
    raise UserError(
        f"there is no place for Ray's files: RAY_TMPDIR has to name a folder that can be written and whose path has at most "
        f"{_longest_path()} bytes"
    )


def remove_folder(folder: Path) -> None:
    """Remove a folder that `make_folder` made, and release its lock."""
    shutil.rmtree(folder, ignore_errors=True)
    _locks.pop(folder).release()


def remove_abandoned(base: Path) -> None:
    """Remove the folders in `base` that killed sessions of this user left."""
    for folder in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, Timeout):  # others' folders, and those in use
            stat = folder.stat()
            if stat.st_uid == os.getuid() and (folder / "lock").exists() and time.time() - stat.st_mtime > YOUNG:
                with FileLock(folder / "lock", blocking=False):
                    shutil.rmtree(folder, ignore_errors=True)


def _places() -> list[Path]:
    """Return the places for folders, the best first: RAY_TMPDIR alone, or else Python's choice, /tmp and /var/tmp."""
    given = [os.environ["RAY_TMPDIR"]] if "RAY_TMPDIR" in os.environ else [tempfile.gettempdir(), "/tmp", "/var/tmp"]
    return [Path(one) for one in given if len(os.fsencode(one)) <= _longest_path() and os.path.isabs(one)]


def _longest_path() -> int:
    """Return the most bytes that the path of a place may have."""
    return PATH_LIMIT - len(SOCKET) - len(f"/{PREFIX}12345678")
