"""Fingerprints of several classes side by side: where each is lost in the noise, and which of them is decided first."""

import itertools
from collections.abc import Iterable
from typing import Any

from diffseg.config import Config
from diffseg.errors import UserError
from diffseg.fingerprint.curve import ERRORS, WIDTH, Fingerprint, compute_fingerprint
from diffseg.labels.classes import Classes
from diffseg.rows import Row


def compute_fingerprints(trials: list[list[Row]], kind: str, names: Iterable[str]) -> dict[str, Fingerprint]:
    """Compute the fingerprints of classes, by their names, as `compute_fingerprint`. "all" names their mean."""
    return {name: compute_fingerprint(trials, kind, name) for name in names}


def fingerprint_rows(timesteps: list[Row], data_digest: str, config: Config) -> list[Row]:
    """Compute a trial's fingerprints of every kind, as rows of the ledger's table."""
    of = {
        "dataset": config.data.name,
        "digest": data_digest,
        "size": config.data.size,
        "coding": config.diffusion.coding,
    }
    columns = ("t", "log_snr", "error", "error_smooth", "derivative", "derivative_t", "weight")
    found: list[Row] = []
    for name, kind in itertools.product(Classes.of(config.data).rows, ERRORS):
        one = compute_fingerprint([timesteps], kind, name)
        values = zip(*(getattr(one, column).tolist() for column in columns), strict=True)
        found += [of | {"class": name, "kind": kind} | dict(zip(columns, row, strict=True)) for row in values]
    return found


def summarise(found: Fingerprint) -> dict[str, Any]:
    """Return the landmarks of a fingerprint and its sentences.

    Without a rise of the error there are no landmarks, and one sentence that says so.
    """
    try:
        words = found.describe()
    except UserError as error:
        return {"kind": found.kind, "words": [f"{str(error)[0].upper()}{str(error)[1:]}."]}
    return found.summary() | {"words": words}


def describe_order(found: dict[str, Fingerprint]) -> str:
    """Say which class is decided at the greatest noise, and which at the least; nothing of fewer than two classes."""
    classes = {name: one for name, one in found.items() if name != "all"}
    halves = {name: one.find_level(0.5) for name, one in classes.items() if one.weight.any()}
    if len(halves) < 2:
        return ""
    first, last = min(halves, key=halves.__getitem__), max(halves, key=halves.__getitem__)
    low, high = halves[first], halves[last]
    if high - low < WIDTH:
        return (
            f"All classes are decided at about the same noise: half of each is lost at log-SNR {low:.1f} to {high:.1f}."
        )
    return (
        f"From noise to mask, {first} is decided first: half of it is lost only at log-SNR {low:.1f}. {last} is decided "
        f"last: half of it is lost already at log-SNR {high:.1f}."
    )
