"""Decoded data sets on disk, so that the trials of a study decode once.

An entry is the folder `<cache>/<key>/`. It is built under another name and renamed, so a killed process leaves nothing that
passes for a whole entry. If two processes want one entry at once, the second waits for the first; the operating system
frees the lock of a dead process. An entry records the state of every file and folder that its images, masks, splits and
groups may come from, and is rebuilt when one of them has changed. Where the root holds the store, as the folder in which a
study runs may, the store does not count.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from diffseg.config import Data
from diffseg.data.arrays import ARRAYS, OBJECTS, Allocate, DecodedData, DecodedSplit
from diffseg.data.files import PICTURES, VOLUMES
from diffseg.data.quantisation import Quantisation
from diffseg.data.records import Record
from diffseg.errors import DataError

log = logging.getLogger(__name__)
VERSION = 11  # of the arrays' meaning and the files' form; raise it when either changes
IN_MEMORY = 2**26  # bytes of an array that is read at once; larger ones are memory-mapped
INDEX = "index.json"
READ = (*PICTURES, *VOLUMES, ".xml", ".csv", "dataset.json")  # endings of the names of files that a layout may read
SETTINGS = {  # what the arrays depend on, besides the files
    "layout", "size", "channels", "fit", "scale", "axis", "foreground", "classes", "regions", "ignore", "objects",
    "split_seed", "train_images", "test_images"
}  # fmt: skip

Records = dict[str, list[Record]]  # by split


def load_or_build(
    cache: Path | None, config: Data, root: Path, choose: Callable[[], Records], build: Callable[..., DecodedData]
) -> tuple[DecodedData, str]:
    """Return the decoded data and their digest from the cache; build the entry if it is missing.

    An entry that is damaged, of another version or of files that have changed is rebuilt.

    Args:
        cache: the folder of all entries; None to build without a cache.
        choose: returns the records to decode.
        build: decodes them; is called as build(records, allocate=…).

    Raises:
        DataError: as choose and build do, and if the disk has no room for the entry.
    """
    if cache is None:
        content = build(choose())
        return content, content.digest
    from filelock import FileLock

    entry = cache / _key(config, root)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{entry}.lock"):
            return _load(entry) or _build(entry, root, choose(), build)
    except OSError as error:
        raise DataError(
            f"the decoded data cannot be kept in {cache} ({error.strerror or error}): make room there, or give another --store"
        ) from None


def is_current(cache: Path, config: Data, root: Path) -> bool:
    """Return whether there is an entry of this version whose files have not changed. The arrays are not read."""
    try:
        index = json.loads((cache / _key(config, root) / INDEX).read_text(encoding="utf-8"))
        return index["version"] == VERSION and all(_state(path) == state for path, state in index["sources"].items())
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return False


def _key(config: Data, root: Path) -> str:
    """Return the name of an entry: a hash of the root and of the settings that the arrays depend on."""
    wanted = [str(root.resolve()), config.model_dump(mode="json", include=SETTINGS), config.normalise == "case"]
    return hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:20]


def _build(entry: Path, root: Path, records: Records, build: Callable[..., DecodedData]) -> tuple[DecodedData, str]:
    """Decode the records into a new entry, and load it."""
    temporary = entry.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    shutil.rmtree(entry, ignore_errors=True)
    temporary.mkdir()
    try:
        sources = _sources(root, records, entry.parent.parent)
        content = build(records, allocate=_file_allocator(temporary))
        for name, array in content.arrays.items():
            path = temporary / f"{name}.npy"
            if not path.exists():
                np.save(path, array)
        index = {"version": VERSION, "sources": sources, **_describe(content)}
        del content  # the files themselves, mapped
        index["checksums"] = {path.name: _checksum(path) for path in sorted(temporary.glob("*.npy"))}
        (temporary / INDEX).write_text(json.dumps(index), encoding="utf-8")
        temporary.rename(entry)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return _read(entry, index)


def _describe(content: DecodedData) -> dict[str, Any]:
    """Return all that the index stores about decoded data besides the arrays; `_read` restores it."""
    return {
        "digest": content.digest,
        "channels": content.channels,
        "raters": content.raters,
        "quantisation": content.quantisation and astuple(content.quantisation),
        "digests": content.digests,
        "records": {split: [one.to_json() for one in own] for split, own in (content.records or {}).items()},
        "names": {split: part.names for split, part in content.parts.items()},
        "groups": {split: part.groups for split, part in content.parts.items()},
        "spacings": {split: part.spacings for split, part in content.parts.items()},
    }


def _file_allocator(folder: Path) -> Allocate:
    """Return a function that allocates arrays as files. It claims their room first: a full disk would kill the process."""

    def allocate(name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        path = folder / f"{name}.npy"
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        with path.open("r+b") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            elif shutil.disk_usage(folder).free < array.nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return array

    return allocate


def _sources(root: Path, records: Records, store: Path) -> dict[str, list[int] | None]:
    """Return the states, by path, of all decoded files, and of all folders and files below the root.

    Any of them may decide which images there are, their foreground, their split or their patient.
    """
    paths = {str(file) for own in records.values() for record in own for file in record.files}
    return {path: _state(path) for path in (*sorted(paths), *_walk(root, store))}


def _walk(root: Path, store: Path) -> Iterator[str]:
    """Yield the folders, and the files of READ, below the root and behind links; none that are hidden or in the store."""
    seen = {os.path.realpath(store)} - {os.path.realpath(root)}
    for place, folders, files in os.walk(root, followlinks=True):
        if (real := os.path.realpath(place)) in seen:  # also where links go round in circles
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield place
        for name in files:
            if not name.startswith(".") and name.lower().endswith(READ):
                yield os.path.join(place, name)


def _state(path: str) -> list[int] | None:
    """Return a file's size and time of change. A missing file, whose error is raised when it is decoded, has None."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns]


def _load(entry: Path) -> tuple[DecodedData, str] | None:
    """Load an entry and its digest. None if it is missing, damaged, of another version, or older than its files."""
    if not entry.is_dir():
        return None
    try:
        index = json.loads((entry / INDEX).read_text(encoding="utf-8"))
        if index["version"] != VERSION:
            raise ValueError(f"they are of version {index['version']}, this is {VERSION}")
        if changed := next((path for path, state in index["sources"].items() if _state(path) != state), None):
            raise ValueError(f"{changed} has changed")
        if damaged := [name for name, found in index["checksums"].items() if _checksum(entry / name) != found]:
            raise ValueError(f"{', '.join(damaged)} is damaged")
        return _read(entry, index)
    except (OSError, EOFError, ValueError, KeyError, TypeError, DataError) as error:
        log.warning("the cached data in %s are built anew: %s", entry, error)
        return None


def _read(entry: Path, index: dict[str, Any]) -> tuple[DecodedData, str]:
    """Read an entry. Large arrays are memory-mapped, with private copies of the pages that are written to."""
    parts = {
        split: DecodedSplit(
            tuple(names),
            tuple(index["groups"][split]),
            tuple(spacing and tuple(spacing) for spacing in index["spacings"][split]),
            **{kind: _array(entry / f"{split}-{kind}.npy") for kind in ARRAYS},
            instances=_array(objects) if (objects := entry / f"{split}-{OBJECTS}.npy").exists() else None,
        )
        for split, names in index["names"].items()
    }
    content = DecodedData(
        parts,
        index["channels"],
        index["raters"],
        _array(entry / "histogram.npy"),
        index["quantisation"] and Quantisation(*index["quantisation"]),
        {split: tuple(map(Record.from_json, saved)) for split, saved in index["records"].items()},
        index["digests"],
    )
    return content, index["digest"]


def _checksum(path: Path) -> str:
    """Return the xxHash of a file, in hexadecimal digits."""
    import xxhash

    return xxhash.xxh3_128(np.memmap(path, np.uint8, "r").data).hexdigest()


def _array(path: Path) -> np.ndarray:
    """Read an array; map it if it is large."""
    array: np.ndarray = np.load(path, mmap_mode="c" if path.stat().st_size > IN_MEMORY else None)
    return array
