"""Files that users write, read within bounds: regular files of at most a megabyte, in UTF-8."""

import os
import stat
from pathlib import Path

from diffseg.errors import UserError

LARGEST = 1 << 20  # bytes


def read_text(path: Path, kind: str) -> str:
    """A file's text, without a byte order mark. kind: what it should be, such as "a study file".

    Raises UserError, in one sentence that names the file, and FileNotFoundError if there is none.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for its other end
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{_shown(path)} cannot be read ({error}): give {kind} that can be read") from None
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            what = "a folder" if stat.S_ISDIR(about.st_mode) else "a pipe, a socket or a device"
            raise UserError(f"{_shown(path)} is {what}: give {kind}, which is a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise UserError(f"{_shown(path)} cannot be read ({error}): give {kind} that can be read") from None
    finally:
        os.close(descriptor)
    if len(content) > LARGEST:
        raise UserError(f"{_shown(path)} is larger than {LARGEST:,} bytes: {kind} is smaller")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"line {line} of {_shown(path)} is not UTF-8 ({error.reason}): save it as UTF-8 text") from None


def _shown(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 300 else f"{text[:200]}…{text[-60:]}"
