"""Files of images: opened only if they are regular, hashed, and every failure turned into a DataError of one sentence."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, ParamSpec, TypeVar, cast

from diffseg.errors import DataError

KINDS = {  # what a path is that is no regular file
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Shape:
    """What the header of an image says."""

    height: int
    width: int
    channels: int  # without alpha
    deep: bool  # more than 8 bits a channel
    spacing: tuple[float, float] | None = None  # mm between rows and between columns; None if unknown

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


_caches: list[Any] = []  # the functions that `cached` has wrapped


def cached(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Cache the last results of a function that reads a file: the slices of a volume are read one after the other."""
    _caches.append(lru_cache(maxsize=2 * (os.cpu_count() or 1))(function))
    return cast(Callable[Arguments, Result], _caches[-1])


def clear_caches() -> None:
    """Drop all cached results: volumes are large, and their files may change."""
    for function in _caches:
        function.cache_clear()


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading. Raises DataError if it cannot be opened or is a folder, a pipe or a device.

    Opening a pipe would wait for a writer, and a device may act when it is opened.
    """
    try:
        if (kind := stat.S_IFMT(path.stat().st_mode)) != stat.S_IFREG:
            raise DataError(f"{path} is {KINDS.get(kind, 'no file')}: only regular files are read, so remove it")
        file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115  closed below
    except OSError as error:
        raise unreadable(path, error) from None
    with file:
        yield file


def digest(path: Path) -> str:
    """Return the hexadecimal digest of a file's content. Raises DataError if it cannot be read."""
    try:
        state = path.stat()
    except OSError as error:
        raise unreadable(path, error) from None
    return _digest(path, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@lru_cache(maxsize=64)  # all slices of a volume ask for its digest, one after the other
def _digest(path: Path, *state: int) -> str:
    """Return the digest of a file in the given state."""
    import xxhash

    with open_file(path) as file, data_errors(path):
        found = xxhash.xxh3_128()
        while chunk := file.read(2**20):
            found.update(chunk)
    return found.hexdigest()


def unreadable(path: Path, error: OSError) -> DataError:
    """Return the error for a file that the operating system does not let us read."""
    return DataError(f"{path} cannot be read ({error.strerror}): put it back or allow reading it, or remove it")


@contextmanager
def data_errors(path: Path) -> Iterator[None]:
    """Turn whatever a decoder of the file raises into a DataError: damaged bytes make decoders fail in any way."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        raise (unreadable(path, error) if error.errno else damaged(path, error)) from None
    except Exception as error:
        raise damaged(path, error) from None


def damaged(path: Path, error: Exception) -> DataError:
    """Return the error for a file that cannot be decoded."""
    said = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{path} cannot be decoded ({said}): it is truncated or damaged, copy it anew")


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; if it has become a pipe meanwhile, do not wait for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
