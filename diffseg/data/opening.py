"""Opening files of images: regular ones only, with one sentence for each that cannot be read."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from diffseg.errors import DataError

KINDS = {  # of what is no regular file
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True)
class Shape:
    """What the header of an image says."""

    height: int
    width: int
    channels: int  # without alpha
    deep: bool  # more than 8 bits a channel

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width


_remembering = []


def remembered(function: Callable) -> Callable:
    """Cache the last results of a function of a file: the slices of a volume are read one after the other."""
    _remembering.append(lru_cache(maxsize=2 * (os.cpu_count() or 1))(function))
    return _remembering[-1]


def forget() -> None:
    """Drop remembered volumes, which are large and may change."""
    for function in _remembering:
        function.cache_clear()


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file, open for reading. Raises DataError if it cannot be opened or is a folder, a pipe or a device.

    A pipe would be waited for, and a device may act when it is opened.
    """
    try:
        if (kind := stat.S_IFMT(path.stat().st_mode)) != stat.S_IFREG:
            raise DataError(f"{path} is {KINDS.get(kind, 'no file')}: only regular files are read, so remove it")
        file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115  closed below
    except OSError as error:
        raise unreadable(path, error) from None
    with file:
        yield file


def digest(path: Path) -> str:
    """Hexadecimal digest of a file's content. Raises DataError if it cannot be read."""
    try:
        state = path.stat()
    except OSError as error:
        raise unreadable(path, error) from None
    return _digest(path, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@lru_cache(maxsize=64)  # the slices of a volume ask one after the other
def _digest(path: Path, *state: int) -> str:
    import xxhash

    with opened(path) as file, decoding(path):
        found = xxhash.xxh3_128()
        while chunk := file.read(2**20):
            found.update(chunk)
    return found.hexdigest()


def unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} cannot be read ({error.strerror}): put it back or allow reading it, or remove it")


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into a DataError: damaged bytes make them fail in every way there is."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        raise (unreadable(path, error) if error.errno else damaged(path, error)) from None
    except Exception as error:
        raise damaged(path, error) from None


def damaged(path: Path, error: Exception) -> DataError:
    said = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{path} cannot be decoded ({said}): it is truncated or damaged, copy it anew")


def _without_waiting(path: str, flags: int) -> int:
    """Open a file that has become a pipe since it was looked at without waiting for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
