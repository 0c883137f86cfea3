"""Checkpoints of one trial: written whole or not at all, and checked by their own name when read.

`step-00001200-1f3a….pt` carries the SHA-256 of its content, so that a damaged file is noticed and the one before is used.
"""

import contextlib
import hashlib
import io
import logging
import os
from pathlib import Path

import torch

log = logging.getLogger(__name__)
KEEP = 2  # the newest, and the one before in case the newest is damaged


def save(folder: Path, step: int, state: dict) -> None:
    """Write tensors and plain values; older checkpoints but one are removed.

    A disk that is full or away is told in the log, and training goes on: a later checkpoint may find room.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    path = folder / f"step-{step:08d}-{_digest(content)}.pt"
    temporary = path.with_suffix(".pt.tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # the one before goes, so this one must survive a power cut
        temporary.replace(path)
        for old in _files(folder)[KEEP:]:
            old.unlink(missing_ok=True)
    except OSError as error:
        log.warning("no checkpoint of step %d could be left (%s)", step, error)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def load(folder: Path, device: torch.device | str) -> dict | None:
    """The newest sound checkpoint's state, or None if there is none. Called before any is written: leftovers are removed."""
    for leftover in folder.glob("step-*.tmp"):
        leftover.unlink()
    for path in _files(folder):
        content = path.read_bytes()
        if _digest(content) == path.stem.rpartition("-")[2]:
            return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        log.warning("checkpoint %s is damaged: going on from the one before", path)
        path.unlink()
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"), reverse=True)


def _digest(content) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
