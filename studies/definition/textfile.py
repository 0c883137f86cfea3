"""Text files of users, read within bounds: regular files in UTF-8, at most a mebibyte."""

import os
import stat
from pathlib import Path

from diffseg.errors import UserError

LARGEST = 1 << 20  # bytes


def read_text(path: Path, kind: str) -> str:
    """Return a file's text, without a byte order mark. `kind` says what it should be, such as "a study file".

    Raises UserError, in one sentence that names the file, and FileNotFoundError if there is no such file.
    """
    content = _read_bytes(path, kind)
    if len(content) > LARGEST:
        raise UserError(f"{_shorten(path)} is larger than {LARGEST:,} bytes: {kind} is smaller")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"line {line} of {_shorten(path)} is not UTF-8 ({error.reason}): save it as UTF-8 text"
        ) from None


def _read_bytes(path: Path, kind: str) -> bytes:
    """Return the first LARGEST + 1 bytes of a regular file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for its other end
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{_shorten(path)} cannot be read ({error}): give {kind} that can be read") from None
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            what = "a folder" if stat.S_ISDIR(about.st_mode) else "a pipe, a socket or a device"
            raise UserError(f"{_shorten(path)} is {what}: give {kind}, which is a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(LARGEST + 1)
    except OSError as error:
        raise UserError(f"{_shorten(path)} cannot be read ({error}): give {kind} that can be read") from None
    finally:
        os.close(descriptor)


def _shorten(path: Path) -> str:
    """Return a path as text, shortened if it is very long."""
    text = str(path)
    return text if len(text) <= 300 else f"{text[:200]}…{text[-60:]}"
