"""Decoded data sets on disk, so that the trials of a study decode once.

`<cache>/<key>/` is built under another name and renamed: a kill leaves nothing that could be taken for whole. Of two
processes that want one entry at once, the later waits for the earlier (the operating system frees the lock of a dead one).
An entry remembers every file and folder that its images, masks, splits and groups may come from, and is built anew when one
of them has changed. Below a root that holds the store, as the folder where a study is run may, the store does not count.
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

import numpy as np

from diffseg.config import Data
from diffseg.data.arrays import ARRAYS, Allocate, Content, Part
from diffseg.data.files import PICTURES, VOLUMES
from diffseg.data.quantisation import Quantisation
from diffseg.data.records import Record
from diffseg.errors import DataError

log = logging.getLogger(__name__)
VERSION = 10  # of the arrays' meaning and the files' form; raise it when either changes
IN_MEMORY = 2**26  # bytes of an array that is read at once; larger ones are memory-mapped
INDEX = "index.json"
READ = (*PICTURES, *VOLUMES, ".xml", ".csv")  # how the names of files end that a layout may look at
SETTINGS = {  # what the arrays depend on, besides the files
    "layout", "size", "channels", "fit", "scale", "axis", "foreground", "objects", "split_seed", "train_images",
    "test_images"
}  # fmt: skip

Records = dict[str, list[Record]]  # by split


def load_or_build(
    cache: Path | None, config: Data, root: Path, choose: Callable[[], Records], build: Callable[..., Content]
) -> tuple[Content, str]:
    """The content and its digest, from the cache, or built and put there.

    choose() finds the records to be decoded, build(records, allocate) decodes them. A damaged entry, or one of another
    version or of files that have changed, is built anew; without a folder, the content is just built. Raises DataError as
    these two do, and if there is no room for the entry.
    """
    if cache is None:
        content = build(choose())
        return content, content.digest
    from filelock import FileLock

    entry = cache / _key(config, root)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{entry}.lock"):
            return _sound(entry) or _built(entry, root, choose(), build)
    except OSError as error:
        raise DataError(
            f"the decoded data cannot be kept in {cache} ({error.strerror or error}): make room there, or give another --store"
        ) from None


def is_current(cache: Path, config: Data, root: Path) -> bool:
    """Whether there is an entry of this version whose files are as they were; what it holds is not read."""
    try:
        index = json.loads((cache / _key(config, root) / INDEX).read_text(encoding="utf-8"))
        return index["version"] == VERSION and all(_state(path) == state for path, state in index["sources"].items())
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return False


def _built(entry: Path, root: Path, records: Records, build: Callable[..., Content]) -> tuple[Content, str]:
    temporary = entry.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    shutil.rmtree(entry, ignore_errors=True)
    temporary.mkdir()
    try:
        index = {"version": VERSION, "sources": _sources(root, records, entry.parent.parent)}
        content = build(records, allocate=_files(temporary))
        for name, array in content.arrays.items():
            path = temporary / f"{name}.npy"
            if not path.exists():
                np.save(path, array)
        index |= {"digest": content.digest, "channels": content.channels, "raters": content.raters}
        index |= {"quantisation": content.quantisation and astuple(content.quantisation), "digests": content.digests}
        index["records"] = {split: [one.to_json() for one in chosen] for split, chosen in content.records.items()}
        for kind in ("names", "groups"):
            index[kind] = {split: getattr(part, kind) for split, part in content.parts.items()}
        del content  # the files themselves, mapped
        index["checksums"] = {path.name: _checksum(path) for path in sorted(temporary.glob("*.npy"))}
        (temporary / INDEX).write_text(json.dumps(index), encoding="utf-8")
        temporary.rename(entry)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return _read(entry, index)


def _files(folder: Path) -> Allocate:
    """Arrays that are files. Their room is claimed first: a disk that filled up later would kill the process."""

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


def _key(config: Data, root: Path) -> str:
    wanted = [str(root.resolve()), config.model_dump(mode="json", include=SETTINGS), config.normalise == "case"]
    return hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:20]


def _sources(root: Path, records: Records, store: Path) -> dict[str, list[int] | None]:
    """The states, by path, of every decoded file, and of all folders and files below the root: any of them may decide which
    images there are, their foreground, their split or their patient."""
    paths = {str(file) for chosen in records.values() for record in chosen for file in record.files}
    return {path: _state(path) for path in (*sorted(paths), *_below(root, store))}


def _below(root: Path, store: Path) -> Iterator[str]:
    """Folders and files of READ below the root, also behind links; without hidden ones, and without the store."""
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
    """Size and time of change; None of what is not there, which is an error only when it is decoded."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns]


def _sound(entry: Path) -> tuple[Content, str] | None:
    """The entry's content if it is what was written and what it was made from has not changed, None otherwise."""
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


def _read(entry: Path, index: dict) -> tuple[Content, str]:
    """The entry's content and digest. Large arrays are mapped, with private copies of the pages that are written to."""
    parts = {
        split: Part(
            tuple(names),
            tuple(index["groups"][split]),
            **{kind: _array(entry / f"{split}-{kind}.npy") for kind in ARRAYS},
        )
        for split, names in index["names"].items()
    }
    content = Content(
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
    import xxhash

    return xxhash.xxh3_128(np.memmap(path, np.uint8, "r")).hexdigest()


def _array(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="c" if path.stat().st_size > IN_MEMORY else None)
