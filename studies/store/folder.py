"""Folders of a store: on a file system that all nodes share, or behind a URI."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit
from uuid import uuid4

import pyarrow as pa
import pyarrow.fs as pafs

from diffseg.errors import UserError
from studies.store.outages import read_errors, write_errors


@dataclass(frozen=True)
class Folder:
    """A folder of a store. File names are paths below it, with slashes.

    All methods raise StoreError, with one sentence that says what failed and why.
    """

    filesystem: pafs.FileSystem
    path: str
    unfinished: str = (
        ""  # the folder of files that are being written: `tmp` in the outermost folder, emptied by every session
    )

    @classmethod
    def open(cls, place: str) -> "Folder":
        """Open a path, or a URI of pyarrow's file systems such as s3://bucket/prefix.

        Raises OSError or ValueError if it cannot be opened, and UserError if the URI holds a password, which studies would
        store.
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
        """The folder as a path; None if it is not on a file system of this machine."""
        return Path(self.path) if isinstance(self.filesystem, pafs.LocalFileSystem) else None

    def at(self, name: str) -> "Folder":
        """Return the folder of this name below."""
        path = f"{self.path}/{name}"
        return Folder(self.filesystem, path, self.unfinished or f"{path}/tmp")

    def exists(self, name: str) -> bool:
        """Return whether there is a file of this name."""
        with read_errors(self.path):
            return bool(self.filesystem.get_file_info(f"{self.path}/{name}").type == pafs.FileType.File)

    def age(self, name: str) -> float | None:
        """Return the seconds since a file was written, by the clocks of store and machine; None if there is no such file."""
        with read_errors(self.path):
            info = self.filesystem.get_file_info(f"{self.path}/{name}")
        return time.time() - info.mtime_ns / 1e9 if info.type == pafs.FileType.File else None

    def read(self, name: str) -> bytes | None:
        """Return a file's content; None if there is no such file."""
        try:
            with read_errors(self.path), self.filesystem.open_input_stream(f"{self.path}/{name}") as file:
                return bytes(file.read())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, content: bytes | memoryview | pa.Buffer, durable: bool = False) -> None:
        """Write a file atomically. Object stores do so by themselves; elsewhere the file is renamed into place.

        If `durable`, the file survives a power cut once this has returned.
        """
        with self.open_for_writing(name, durable) as file:
            file.write(content)

    @contextlib.contextmanager
    def open_for_writing(self, name: str, durable: bool = False) -> Iterator[BinaryIO]:
        """Like `write`, for a file that is written in parts. Nothing is left behind if the block fails.

        If `durable`, the file and the entries of its folders are on the disk (fsync) when the block ends.
        """
        with write_errors(self.path):
            target = f"{self.path}/{name}"
            if self.local is None:  # a stream that is closed after an error would store a part of the file
                with tempfile.TemporaryFile() as file:
                    yield file
                    file.seek(0)
                    with self.filesystem.open_output_stream(target) as target_file:
                        shutil.copyfileobj(file, target_file, 1 << 20)
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
        """Remove a file if it exists."""
        with write_errors(self.path), contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(f"{self.path}/{name}")

    def move(self, name: str, to: str) -> None:
        """Rename a file if it exists, and in a local store also a folder. A file that had the new name is replaced."""
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
        """Remove the folder and its content if it exists."""
        if self.local:
            shutil.rmtree(self.local, ignore_errors=True)
            return
        with write_errors(self.path):
            self.filesystem.delete_dir_contents(self.path, missing_dir_ok=True)

    def folders(self) -> list[str]:
        """Return the sorted names of the folders in this one, which need not exist."""
        with read_errors(self.path):
            found = self.filesystem.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == pafs.FileType.Directory)

    def files(self) -> dict[str, int]:
        """Return the names of all files below, with their sizes in bytes."""
        selector = pafs.FileSelector(self.path, allow_not_found=True, recursive=True)
        with read_errors(self.path):
            every = self.filesystem.get_file_info(selector)
        found = (info for info in every if info.type == pafs.FileType.File)
        return {info.path[len(self.path) + 1 :]: info.size for info in found}


def open_store(place: str) -> Folder:
    """Open a store, which need not exist. Raises UserError if it cannot be opened, or is or lies in a file."""
    try:
        folder = Folder.open(place)
    except (OSError, ValueError) as error:
        raise UserError(f"the store {place} cannot be used ({error}): give another with --store DIR") from None
    path = folder.local
    existing = next(filter(os.path.exists, (path, *path.parents)), None) if path else None
    if existing and not os.path.isdir(existing):
        raise UserError(f"the store {place} cannot be used, since {existing} is a file: give a folder with --store DIR")
    return folder


def absolute_place(place: str) -> str:
    """Return a URI as it is, and a path as an absolute one."""
    return place if "://" in place else str(Path(place).expanduser().absolute())


def sync_entries(folder: Path) -> None:
    """Write a folder's entries to the disk (fsync), so that a file renamed into it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot, and need not
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
