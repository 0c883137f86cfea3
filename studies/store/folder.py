"""Files of a study: in a folder that all nodes share, or behind a URI, of which a node copies what it works on."""

import contextlib
import errno
import hashlib
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import pyarrow.fs as pafs
from filelock import FileLock

from diffseg.errors import StoreError, UserError

T = TypeVar("T")
log = logging.getLogger(__name__)
PATIENCE = 300.0  # seconds for which a store may be out of reach before a trial gives up
PUSH_EVERY = 5.0  # seconds between copies of a trial's work to the store
FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class Folder:
    """A folder of a store. Names are paths below it, with slashes.

    All methods raise StoreError, which says in one sentence what cannot be done and why.
    """

    filesystem: pafs.FileSystem
    path: str
    unfinished: str = ""  # the folder of files that are being written, which is swept up: `tmp` in the outermost one

    @classmethod
    def open(cls, place: str) -> "Folder":
        """Of a path, or of a URI of pyarrow's file systems such as s3://bucket/prefix.

        Raises OSError or ValueError, and UserError if the URI holds a password, which would be written into studies.
        """
        if "://" in place:
            if urlsplit(place).password is not None:
                raise UserError(
                    f"the URI of {urlsplit(place).hostname} holds a password: give credentials by the environment "
                    "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, say) or by the machine's role"
                )
            return cls(*pafs.FileSystem.from_uri(place))
        return cls(pafs.LocalFileSystem(), absolute_place(place))

    @property
    def local(self) -> Path | None:
        """The folder as a path; None if it is not on a file system of this machine's."""
        return Path(self.path) if isinstance(self.filesystem, pafs.LocalFileSystem) else None

    def at(self, name: str) -> "Folder":
        path = f"{self.path}/{name}"
        return Folder(self.filesystem, path, self.unfinished or f"{path}/tmp")

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        with read_errors(self.path):
            return self.filesystem.get_file_info(f"{self.path}/{name}").type == pafs.FileType.File

    def age(self, name: str) -> float | None:
        """Seconds since a file was written, by the clocks of store and machine; None if there is none."""
        with read_errors(self.path):
            info = self.filesystem.get_file_info(f"{self.path}/{name}")
        return time.time() - info.mtime_ns / 1e9 if info.type == pafs.FileType.File else None

    def read(self, name: str) -> bytes | None:
        """A file's content; None if there is none."""
        try:
            with read_errors(self.path), self.filesystem.open_input_stream(f"{self.path}/{name}") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, content, durable: bool = False) -> None:
        """Write a file whole or not at all: object stores do so by themselves, elsewhere it is renamed into place.

        durable: it survives a power cut once this has returned.
        """
        with self.writing(name, durable) as file:
            file.write(content)

    @contextlib.contextmanager
    def writing(self, name: str, durable: bool = False) -> Iterator[BinaryIO]:
        """Like `write`, for a file that is written bit by bit. A file that fails midway is not left behind.

        durable: the file and the entries of its folders are on the disk (fsync) before this returns.
        """
        with write_errors(self.path):
            target = f"{self.path}/{name}"
            if self.local is None:  # closing a stream, even after an error, would leave what it holds by then
                with tempfile.TemporaryFile() as file:
                    yield file
                    file.seek(0)
                    with self.filesystem.open_output_stream(target) as there:
                        shutil.copyfileobj(file, there, 1 << 20)
                return
            temporary, path = Path(self.unfinished or f"{self.path}/tmp", uuid4().hex), Path(target)
            temporary.parent.mkdir(parents=True, exist_ok=True)
            made = [folder for folder in path.parents if not folder.exists()] if durable else []
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("wb") as file:
                    yield file
                    if durable:
                        file.flush()
                        os.fsync(file.fileno())
                temporary.replace(path)
            except Exception:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
            if durable:
                for folder in {path.parent, *(one.parent for one in made)}:
                    sync_entries(folder)

    def remove(self, name: str) -> None:
        """Remove a file, if there is one."""
        with write_errors(self.path), contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(f"{self.path}/{name}")

    def move(self, name: str, to: str) -> None:
        """Rename a file, or of a local store also a folder, if there is one; what had the name before is replaced."""
        with write_errors(self.path):
            if self.local is None:
                if self.exists(name):
                    self.filesystem.move(f"{self.path}/{name}", f"{self.path}/{to}")
                return
            source, target = self.local / name, self.local / to
            if not os.path.lexists(source):
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(target) and (source.is_dir() or target.is_dir()):
                target = target.with_name(f"{target.name}-{uuid4().hex[:8]}")
            source.replace(target)

    def clear(self) -> None:
        """Remove the folder and all that is in it, if there is one."""
        if self.local:
            shutil.rmtree(self.local, ignore_errors=True)
            return
        with write_errors(self.path):
            self.filesystem.delete_dir_contents(self.path, missing_dir_ok=True)

    def files(self) -> dict[str, int]:
        """The names of all files below, with their sizes in bytes."""
        selector = pafs.FileSelector(self.path, allow_not_found=True, recursive=True)
        with read_errors(self.path):
            every = self.filesystem.get_file_info(selector)
        found = (info for info in every if info.type == pafs.FileType.File)
        return {info.path[len(self.path) + 1 :]: info.size for info in found}


@contextlib.contextmanager
def read_errors(place: str) -> Iterator[None]:
    """Raise StoreError where a store cannot be read. What is not there at all remains a FileNotFoundError."""
    try:
        yield
    except (StoreError, FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise StoreError(
            f"{place} cannot be read ({_words(error)}): check that the store is there and may be read, "
            "or give another with --store DIR"
        ) from error


@contextlib.contextmanager
def write_errors(place: str) -> Iterator[None]:
    """Raise StoreError where a store cannot be written."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        if error.errno in FULL:
            raise StoreError(
                f"{place} cannot be written, since its disk or quota is full ({_words(error)}): make room there and give "
                "the same command again, which resumes; what was recorded is kept"
            ) from error
        raise StoreError(
            f"{place} cannot be written ({_words(error)}): check that the store is there and may be written, "
            "or give another with --store DIR"
        ) from error


def _words(error: OSError) -> str:
    return " ".join(str(error).split())


def sync_entries(folder: Path) -> None:
    """Have a folder's entries on the disk, so that a file renamed into it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot, and need not
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def absolute_place(place: str) -> str:
    """A URI as it is, and a path such that it means the same in every folder."""
    return place if "://" in place else str(Path(place).expanduser().absolute())


def node_folder() -> Path:
    """Where a node keeps its copies of what lies behind URIs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "diffseg"


def cache_folder(store: str) -> Path:
    """Where decoded data sets are kept: in the store if that is a folder, else on the node."""
    local = Folder.open(store).local
    return local / "cache" if local else node_folder() / "cache"


def fetch_root(root: str) -> Path:
    """A data set's folder; of a URI a copy on this node. Raises UserError if there is nothing."""
    if "://" not in root:
        return Path(root)
    try:
        copy = LocalCopy(Folder.open(root))
        copy.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{copy.path}.lock"):  # others on this node may want it, too
            path = copy.fetch()
    except (OSError, ValueError) as error:
        raise UserError(f"{root} cannot be read from {socket.gethostname()} ({error})") from None
    if not any(path.iterdir()):
        raise UserError(f"{root} holds no files, as seen from {socket.gethostname()}: give --data NAME=ROOT anew")
    return path


class LocalCopy:
    """A folder of a store as a path to work in: itself where it is one already, else a copy that is carried back."""

    def __init__(self, folder: Folder):
        self.folder = folder
        name = hashlib.sha256(f"{folder.filesystem.type_name} {folder.path}".encode()).hexdigest()[:16]
        self.path = folder.local or node_folder() / "copies" / f"{Path(folder.path).name}-{name}"
        self._pushed: dict[str, tuple[int, int]] = {}
        self._lock, self._due = threading.Lock(), 0.0

    def fetch(self) -> Path:
        """Make the copy what the store has: files that are missing or of another size are brought, others removed, such as
        checkpoints that another node has replaced since."""
        with write_errors(str(self.path)):
            return self._fetch()

    def _fetch(self) -> Path:
        self.path.mkdir(parents=True, exist_ok=True)
        if self.folder.local:
            return self.path
        there = self.folder.files()
        for file in self.path.rglob("*"):
            if file.is_file() and str(file.relative_to(self.path)) not in there:
                file.unlink()
        for name, size in there.items():
            target = self.path / name
            if not (target.is_file() and target.stat().st_size == size):
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.with_name(f".{uuid4().hex}.fetched")
                temporary.write_bytes(self.folder.read(name) or b"")
                temporary.replace(target)
            self._pushed[name] = _stamp(target)
        return self.path

    def push(self) -> None:
        """Carry back what has changed since, and remove there what is gone here. Raises OSError if the store is away."""
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
        """Like `push`, beside the work and every PUSH_EVERY seconds; a store that is away is tried again the next time."""
        if self.folder.local or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + PUSH_EVERY
        if not self._lock.locked():
            threading.Thread(target=self._try, daemon=True).start()

    def _try(self) -> None:
        try:
            self.push()
        except OSError as error:
            log.warning("the store cannot be reached (%s): trying again", error)


def retry_outages(action: Callable[[], T], patience: float = PATIENCE) -> T:
    """Do something with a store that may be out of reach for a while. Raises its OSError if it stays so."""
    end, pause = time.monotonic() + patience, 1.0
    while True:
        try:
            return action()
        except OSError as error:
            if time.monotonic() + pause > end:
                raise
            log.warning("the store cannot be used (%s): trying again in %.0f s", error, pause)
        time.sleep(pause)
        pause = min(2 * pause, 30.0)


def _stamp(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size
