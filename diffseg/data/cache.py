"""Decoded data sets on disk, so that the trials of a study decode once.

`<cache>/<key>/` is written under another name and renamed: a kill leaves nothing half-written, and of two processes that
build at once the later one finds the work done.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import numpy as np

from diffseg.config import Data
from diffseg.data.arrays import Content, Part, digest
from diffseg.data.records import Record, unreadable

log = logging.getLogger(__name__)
VERSION = 3  # of the arrays' meaning and the files' form; raise it when either changes


def through(
    cache: Path | None, config: Data, records: dict[str, list[Record]], build: Callable[[], Content]
) -> tuple[Content, str]:
    """The content and its digest, from the cache, or built and put there.

    A damaged entry is built anew; without a folder, the content is just built. Raises DataError as `build` does.
    """
    if cache is None:
        content = build()
        return content, digest(content)
    entry = cache / _key(config, records)
    if entry.is_dir():
        try:
            return _read(entry)
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            log.warning("the cached data in %s are damaged (%s) and built anew", entry, error)
            shutil.rmtree(entry, ignore_errors=True)
    content = build()
    checksum = digest(content)
    _write(entry, content, checksum)
    return content, checksum


def _key(config: Data, records: dict[str, list[Record]]) -> str:
    """A name for what the arrays depend on: settings, and every file's path, size and time of change."""
    settings = config.model_dump(include={"layout", "size", "fit", "scale"})
    files = [
        (split, record.name, str(file), *_state(file))
        for split, chosen in records.items()
        for record in chosen
        for file in record.files
    ]
    return hashlib.sha256(json.dumps([VERSION, settings, files]).encode()).hexdigest()[:20]


def _state(file: Path) -> tuple[int, int]:
    try:
        state = file.stat()
    except OSError as error:
        raise unreadable(file, error) from None
    return state.st_size, state.st_mtime_ns


def _read(entry: Path) -> tuple[Content, str]:
    """Memory-mapped arrays, writable copies of their pages. Raises ValueError if they are not what was written."""
    index = json.loads((entry / "index.json").read_text())
    content = {
        split: Part(
            tuple(names),
            *(np.load(entry / f"{split}-{kind}.npy", mmap_mode="c") for kind in ("images", "masks", "sizes")),
        )
        for split, names in index["names"].items()
    }
    if digest(content) != index["digest"]:
        raise ValueError("the arrays do not match their digest")
    return content, index["digest"]


def _write(entry: Path, content: Content, checksum: str) -> None:
    temporary = entry.with_name(f"{entry.name}.{uuid4().hex}.tmp")
    try:
        temporary.mkdir(parents=True)
        for split, part in content.items():
            for kind in ("images", "masks", "sizes"):
                np.save(temporary / f"{split}-{kind}.npy", getattr(part, kind))
        index = {"digest": checksum, "names": {split: part.names for split, part in content.items()}}
        (temporary / "index.json").write_text(json.dumps(index))
        temporary.rename(entry)
    except OSError as error:  # another process was first, or the disk is full: the arrays are at hand all the same
        log.info("the decoded data are not cached in %s: %s", entry, error)
        shutil.rmtree(temporary, ignore_errors=True)
