"""Checkpoints of one trial: files that are written whole or not at all, and checked when they are read.

`step-00001200-1f3a….pt` holds all that training resumes from. `step-00006000-weights-77b2….pt` is what remains at the end:
the weights that predict, and what the training recorded. `step-00000900-weights-of-1f3a…-c04d….pt` was made of the
checkpoint 1f3a…. Each name ends with the SHA-256 of the content, so a damaged file is noticed, and the one before used.
"""

import contextlib
import hashlib
import io
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffseg.errors import UserError
from diffseg.labels.classes import FOREGROUND

log = logging.getLogger(__name__)
KEEP = 2  # the newest, and the one before in case the newest is damaged
STATES = ("average", "network", "optimiser", "scaler")  # an ended training keeps the first of them that it has
WEIGHTS = "weights"  # part of the names of files that hold no more than what prediction needs
Saved = dict[str, Any]  # state dictionaries and plain values by name


def save(folder: Path, step: int, state: Mapping[str, Any], ended: bool = False) -> None:
    """Write a checkpoint of tensors and plain values, and remove all but the KEEP newest ones.

    If the disk is full or cannot be reached, this logs a warning and returns, since a later checkpoint may find room.

    Args:
        folder: The folder of the checkpoints.
        step: The number of steps done.
        state: What the checkpoint holds, by name.
        ended: Whether it is the training's last step. The file then holds the weights that predict and the plain values.
    """
    kind = (WEIGHTS,) if ended else ()
    try:
        _write(folder, step, kind, _reduce(state) if ended else state)
        for old in _files(folder)[KEEP:]:
            old.unlink(missing_ok=True)
    except OSError as error:
        log.warning("the checkpoint of step %d could not be written (%s): training continues", step, error)


def holds_weights(folder: Path) -> bool:
    """Return whether a folder holds the weights of a training that has ended."""
    return any(is_weights(path.name) for path in _files(folder))


def keep_weights(folder: Path, training_files: Sequence[str] = ()) -> None:
    """Reduce the folder of a training that has ended to the newest weights. A kill at any moment loses nothing.

    Args:
        folder: The folder of the checkpoints. Folders below that hold checkpoints are reduced, too.
        training_files: Patterns of other files below that only training needs.

    Raises:
        UserError: The newest checkpoint is damaged. Its folder is left as it is.
        OSError: A file cannot be read, written or removed.
    """
    for place in sorted({path.parent for path in folder.rglob("step-*.pt")}):
        newest, *others = _files(place)
        if not is_weights(newest.name):
            state = _read(newest, "cpu", None, FOREGROUND)
            _write(place, _step(newest.name) or 0, (WEIGHTS, "of", _named_digest(newest)), _reduce(state))
            others = [newest, *others]
        elif _digest(newest.read_bytes()) != _named_digest(newest):
            raise _damaged(newest)
        for other in others:
            other.unlink(missing_ok=True)
        _remove_unfinished(place)
    for path in {path for pattern in training_files for path in folder.glob(pattern)}:
        path.unlink(missing_ok=True)


def _reduce(state: Mapping[str, Any]) -> Saved:
    """Return the weights that predict, and the plain values, of what a checkpoint holds."""
    kept = next((name for name in STATES if name in state), None)
    return {name: value for name, value in state.items() if name == kept or name not in STATES}


def _write(folder: Path, step: int, kind: Sequence[str], state: Mapping[str, Any]) -> None:
    """Write a file that survives a power cut before it has its name. Nothing is left behind if that fails."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    path = folder / f"{'-'.join([f'step-{step:08d}', *kind, _digest(content)])}.pt"
    temporary = path.with_suffix(".pt.tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # older checkpoints are removed, so this one must survive a power cut
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def load(
    folder: Path,
    device: torch.device | str,
    network: nn.Module | None = None,
    classes: str = FOREGROUND,
    steps: int | None = None,
) -> Saved | None:
    """Return the newest sound checkpoint, for training to resume from; None if there is none.

    Removes unfinished files and checkpoints that cannot be used, since training writes into the folder next.

    Args:
        folder: The folder of the checkpoints.
        device: Where to load tensors.
        network: The network that a checkpoint must fit; None to accept any.
        classes: The description of the classes that the network must have been trained on.
        steps: The step at which the training ends. Weights alone are returned of no other one; None to accept any.
    """
    _remove_unfinished(folder)
    for path in _files(folder):
        try:
            if is_weights(path.name) and steps not in (None, _step(path.name)):
                raise UserError(f"{path} holds the weights of a training that ended at another step than {steps}")
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
        raise UserError(
            f"{folder} has no checkpoint: the trial has not been trained, or its files were removed, as "
            "`diffseg clean --keep` does: run it again in a study of another name"
        )
    name = _find_reduced(name, found) if name else found[0]
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


def _find_reduced(name: str, found: list[str]) -> str:
    """Return the name of the file that was made of a full checkpoint, or the checkpoint's own if there is none."""
    step, _, digest = Path(name).stem.rpartition("-")
    return next((other for other in found if other.startswith(f"{step}-{WEIGHTS}-of-{digest}-")), name)


def _read(path: Path, device: torch.device | str, network: nn.Module | None, classes: str) -> Saved:
    """Read and check one file.

    Raises:
        UserError: The file is damaged, or is no checkpoint of the network.
        OSError: The file cannot be read.
    """
    content = path.read_bytes()
    if _digest(content) != _named_digest(path):
        raise _damaged(path)
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
    found, trained = [state[name] for name in ("average", "network") if name in state], state.get("classes", FOREGROUND)
    if not found or not all(isinstance(weights, dict) for weights in found):
        return "it holds no network"
    if trained != classes:
        return f"it was trained on {trained}, not on {classes}"
    expected = network.state_dict()
    return next(filter(None, (_find_difference(weights, expected) for weights in found)), None)


def _find_difference(weights: Saved, expected: Saved) -> str | None:
    """Return which weight is missing, unknown or of another shape; None if all are as expected."""
    if different := sorted(weights.keys() ^ expected.keys(), key=str):
        where = "is missing from it" if different[0] in expected else "is not in the network"
        return f"{different[0]} {where}"
    shapes = {key: tuple(value.shape) for key, value in expected.items()}
    for key, value in weights.items():
        if tuple(getattr(value, "shape", ())) != shapes[key]:
            return f"{key} is {tuple(getattr(value, 'shape', ()))} instead of {shapes[key]}"
    return None


def _files(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, newest first, and of one step the weights before the full checkpoint."""
    return sorted((path for path in folder.glob("step-*.pt") if path.is_file()), reverse=True)


def _step(name: str) -> int | None:
    step = name.removeprefix("step-").partition("-")[0]
    return int(step) if step.isdecimal() else None


def _remove_unfinished(folder: Path) -> None:
    """Remove files that were being written when the training was killed."""
    for leftover in folder.glob("step-*.tmp"):
        leftover.unlink(missing_ok=True)


def is_weights(name: str) -> bool:
    """Return whether a file of this name holds no more than what prediction needs."""
    return name.split("-")[2:3] == [WEIGHTS]


def _named_digest(path: Path) -> str:
    return path.stem.rpartition("-")[2]


def _damaged(path: Path) -> UserError:
    return UserError(
        f"checkpoint {path} is damaged (its content does not have the digest of its name): bring a sound copy back"
    )


def _digest(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
