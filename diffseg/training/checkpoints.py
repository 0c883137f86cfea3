"""Checkpoints of one trial: files that are written whole or not at all, and checked when they are read.

`step-00001200-1f3a….pt` has the SHA-256 of its content in its name. A damaged file is so noticed, and the one before used.
"""

import contextlib
import hashlib
import io
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffseg.errors import UserError
from diffseg.labels.classes import FOREGROUND

log = logging.getLogger(__name__)
KEEP = 2  # the newest, and the one before in case the newest is damaged
Saved = dict[str, Any]  # state dictionaries and plain values by name


def save(folder: Path, step: int, state: Mapping[str, Any]) -> None:
    """Write a checkpoint of tensors and plain values, and remove all but the KEEP newest ones.

    If the disk is full or cannot be reached, this logs a warning and returns, since a later checkpoint may find room.
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
            os.fsync(file.fileno())  # older checkpoints are removed, so this one must survive a power cut
        temporary.replace(path)
        for old in _files(folder)[KEEP:]:
            old.unlink(missing_ok=True)
    except OSError as error:
        log.warning("the checkpoint of step %d could not be written (%s): training continues", step, error)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def load(
    folder: Path, device: torch.device | str, network: nn.Module | None = None, classes: str = FOREGROUND
) -> Saved | None:
    """Return the newest sound checkpoint, for training to resume from; None if there is none.

    Removes unfinished files and checkpoints that cannot be used, since training writes into the folder next.

    Args:
        folder: The folder of the checkpoints.
        device: Where to load tensors.
        network: The network that a checkpoint must fit; None to accept any.
        classes: The description of the classes that the network must have been trained on.
    """
    for leftover in folder.glob("step-*.tmp"):
        leftover.unlink()
    for path in _files(folder):
        try:
            return _read(path, device, network, classes)
        except UserError as error:
            log.warning("%s: resuming from the checkpoint before it", error)
            path.unlink()
    return None


def load_final(
    folder: Path,
    name: str | None,
    steps: int | None,
    device: torch.device | str,
    network: nn.Module | None,
    classes: str = FOREGROUND,
) -> Saved:
    """Return the checkpoint that a training ended with, for prediction. Nothing is written or removed.

    Args:
        folder: The folder of the checkpoints.
        name: The file that the ledger names; None for the newest one.
        steps: The step that the checkpoint must be of; None to accept any.
        device: Where to load tensors.
        network: The network that the checkpoint must fit; None to accept any.
        classes: The description of the classes that the network must have been trained on.

    Raises:
        UserError: The file is missing, damaged, unreadable, of another step, of another network or of other classes.
    """
    found = [path.name for path in _files(folder)]
    if not found:
        raise UserError(f"{folder} has no checkpoint: the trial has not been trained, or its files were removed")
    name = name or found[0]
    if name not in found:
        raise UserError(
            f"{folder} lacks {name}, which its training ended with ({found[0]} is its newest checkpoint): bring the file back, "
            "or run the trial again in a study of another name"
        )
    if steps is not None and _step(name) != steps:
        raise UserError(
            f"{folder / name} is of step {_step(name)}, but the training ended at step {steps}: bring the last checkpoint "
            "back, or run the trial again in a study of another name"
        )
    try:
        return _read(folder / name, device, network, classes)
    except OSError as error:
        raise UserError(f"checkpoint {folder / name} cannot be read ({error}): make it readable") from None


def find_final(folder: Path, step: int) -> str | None:
    """Return the name of the checkpoint of the training's last step; None if it could not be saved."""
    return next((path.name for path in _files(folder) if _step(path.name) == step), None)


def _read(path: Path, device: torch.device | str, network: nn.Module | None, classes: str) -> Saved:
    """Read and check one file.

    Raises:
        UserError: The file is damaged, or is no checkpoint of the network.
        OSError: The file cannot be read.
    """
    content = path.read_bytes()
    if _digest(content) != path.stem.rpartition("-")[2]:
        raise UserError(
            f"checkpoint {path} is damaged (its content does not have the digest of its name): bring a sound copy back"
        )
    try:
        state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds of errors for files that it did not write
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{path} is no checkpoint ({reason[0]}): bring the trial's own back") from None
    if not isinstance(state, dict):
        raise UserError(
            f"{path} is no checkpoint of this trial's network (it holds no network): bring the trial's own back"
        )
    if network is not None and (problem := _find_mismatch(state, network, classes)):
        raise UserError(f"{path} is no checkpoint of this trial's network ({problem}): bring the trial's own back")
    return state


def _find_mismatch(state: Saved, network: nn.Module, classes: str) -> str | None:
    """Return why a checkpoint does not fit the network and its classes; None if it fits."""
    weights, trained = state.get("network"), state.get("classes", FOREGROUND)
    if not isinstance(weights, dict):
        return "it holds no network"
    if trained != classes:
        return f"it was trained on {trained}, not on {classes}"
    expected = network.state_dict()
    if different := sorted(weights.keys() ^ expected.keys(), key=str):
        where = "is missing from it" if different[0] in expected else "is not in the network"
        return f"{different[0]} {where}"
    shapes = {key: tuple(value.shape) for key, value in expected.items()}
    for key, value in weights.items():
        if tuple(getattr(value, "shape", ())) != shapes[key]:
            return f"{key} is {tuple(getattr(value, 'shape', ()))} instead of {shapes[key]}"
    return None


def _files(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, newest first."""
    return sorted((path for path in folder.glob("step-*.pt") if path.is_file()), reverse=True)


def _step(name: str) -> int | None:
    step = name.removeprefix("step-").partition("-")[0]
    return int(step) if step.isdecimal() else None


def _digest(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
