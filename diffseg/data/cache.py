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
from diffseg.data.arrays import Content, Part
from diffseg.data.records import Record

log = logging.getLogger(__name__)
VERSION = 1  # of the arrays' meaning; raise it when preparing changes


def through(
    cached: Path | None, config: Data, records: dict[str, list[Record]], build: Callable[[], Content]
) -> Content:
    """The content from the cache, or built and put there. A damaged entry is built anew; without a folder, just built."""
    if cached is None:
        return build()
    entry = cached / _key(config, records)
    if entry.is_dir():
        try:
            return _read(entry)
        except (OSError, ValueError, KeyError) as error:
            log.warning("the cached data in %s are damaged (%s) and built anew", entry, error)
            shutil.rmtree(entry, ignore_errors=True)
    content = build()
    _write(entry, content)
    return content


def _key(config: Data, records: dict[str, list[Record]]) -> str:
    """A name for what the arrays depend on: settings, and every file's path, size and time of change."""
    settings = config.model_dump(include={"layout", "size", "fit", "scale"})
    files = [
        (split, record.name, str(file), file.stat().st_size, file.stat().st_mtime_ns)
        for split, chosen in records.items()
        for record in chosen
        for file in record.files
    ]
    return hashlib.sha256(json.dumps([VERSION, settings, files]).encode()).hexdigest()[:20]


def _read(entry: Path) -> Content:
    names = json.loads((entry / "names.json").read_text())
    return {
        split: Part(
            tuple(names[split]), *(np.load(entry / f"{split}-{kind}.npy") for kind in ("images", "masks", "sizes"))
        )
        for split in names
    }


def _write(entry: Path, content: Content) -> None:
    temporary = entry.with_name(f"{entry.name}.{uuid4().hex}.tmp")
    try:
        temporary.mkdir(parents=True)
        for split, part in content.items():
            for kind in ("images", "masks", "sizes"):
                np.save(temporary / f"{split}-{kind}.npy", getattr(part, kind))
        (temporary / "names.json").write_text(json.dumps({split: part.names for split, part in content.items()}))
        temporary.rename(entry)
    except OSError as error:  # another process was first, or the disk is full: the arrays are at hand all the same
        log.info("the decoded data are not cached in %s: %s", entry, error)
        shutil.rmtree(temporary, ignore_errors=True)
