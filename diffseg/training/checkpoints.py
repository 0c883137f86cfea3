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
from torch import nn

from diffseg.errors import UserError

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


def load(folder: Path, device: torch.device | str, network: nn.Module | None = None) -> dict | None:
    """Return the state of the newest sound checkpoint of the network, for training to go on from; None if there is none.

    Training writes into the folder next: leftovers and checkpoints that cannot be used are removed.
    """
    for leftover in folder.glob("step-*.tmp"):
        leftover.unlink()
    for path in _files(folder):
        try:
            return _read(path, device, network)
        except UserError as error:
            log.warning("%s: going on from the one before", error)
            path.unlink()
    return None


def final(
    folder: Path, name: str | None, steps: int | None, device: torch.device | str, network: nn.Module | None
) -> dict:
    """Return the state that a training ended with, for prediction; read only.

    name: the checkpoint's file, by the ledger; None for the newest one, which has to be of step `steps` unless that is None.
    Raises UserError if the file is missing, damaged, not of the training's end, or not of the network.
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
        return _read(folder / name, device, network)
    except OSError as error:
        raise UserError(f"checkpoint {folder / name} cannot be read ({error}): make it readable") from None


def newest(folder: Path, step: int) -> str | None:
    """The name of the checkpoint of a training that has ended at the step; None if it could not be saved."""
    return next((path.name for path in _files(folder) if _step(path.name) == step), None)


def _read(path: Path, device: torch.device | str, network: nn.Module | None) -> dict:
    """Raises UserError if the file is damaged, or holds no state of the network, OSError if it cannot be read."""
    content = path.read_bytes()
    if _digest(content) != path.stem.rpartition("-")[2]:
        raise UserError(
            f"checkpoint {path} is damaged (its content does not have the digest of its name): bring a sound copy back"
        )
    try:
        state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # torch raises all kinds for what is none of its files
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{path} is no checkpoint ({reason[0]}): bring the trial's own back") from None
    if network is not None and (problem := _misfit(state, network)):
        raise UserError(f"{path} is no checkpoint of this trial's network ({problem}): bring the trial's own back")
    return state


def _misfit(state: object, network: nn.Module) -> str | None:
    """Why a state is not the network's, if it is not."""
    weights = state.get("network") if isinstance(state, dict) else None
    if not isinstance(weights, dict):
        return "it holds no network"
    expected = network.state_dict()
    if apart := sorted(weights.keys() ^ expected.keys(), key=str):
        where = "is missing from it" if apart[0] in expected else "is not in the network"
        return f"{apart[0]} {where}"
    shapes = {key: tuple(value.shape) for key, value in expected.items()}
    for key, value in weights.items():
        if tuple(getattr(value, "shape", ())) != shapes[key]:
            return f"{key} is {tuple(getattr(value, 'shape', ()))} instead of {shapes[key]}"
    return None


def _files(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("step-*.pt") if path.is_file()), reverse=True)


def _step(name: str) -> int | None:
    step = name.removeprefix("step-").partition("-")[0]
    return int(step) if step.isdecimal() else None


def _digest(content) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
