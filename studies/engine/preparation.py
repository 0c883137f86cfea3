"""Steps of a worker before it trains: check the store, reuse the training of another trial, and count its starts."""

import contextlib
import json
import shutil
import socket
from pathlib import Path

from diffseg import config as configuration
from studies.engine.files import STARTS, TRAINED_BY
from studies.engine.request import TrialRequest
from studies.store.copies import LocalCopy


class NotShared(Exception):
    """The store that the worker sees is not the session's."""


def check_store(request: TrialRequest) -> None:
    """Raise NotShared unless the store holds the study."""
    if not request.ledger.is_defined():
        raise NotShared(
            f"{request.store} on {socket.gethostname()} does not hold the study {request.study}: all nodes have to share "
            "the store, so give a --store DIR on a file system that they all mount, or a URI"
        )


def reuse_training(request: TrialRequest, folder: Path) -> None:
    """Copy the checkpoints of a complete trial that was trained alike and predicts in another way, if there is one.

    Does nothing if the trial has checkpoints in `folder` already. TRAINED_BY then names the other trial.
    """
    if any(folder.rglob("step-*.pt")):
        return
    trained = configuration.load(request.config).trained
    for row in request.ledger.last_rows(["status", "trained"]):
        if row["trained"] == trained and row["status"] == "complete":
            source = LocalCopy(request.ledger.folder.at(f"work/{row['trial']}")).fetch()
            found = sorted(source.rglob("step-*.pt"))
            if not found:  # `diffseg clean` has removed them
                continue
            request.folder.write(TRAINED_BY, row["trial"].encode())
            for checkpoint in found:
                with contextlib.suppress(FileNotFoundError):  # an older one, which the other trial's worker removes
                    _copy_atomically(checkpoint, folder / checkpoint.relative_to(source))
            return


def _copy_atomically(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp")
    shutil.copy(source, temporary)
    temporary.replace(target)


def count_starts(request: TrialRequest, folder: Path) -> int:
    """Count this start; return how often the driver started the trial on this node from the present checkpoints.

    Starts by other drivers and on other nodes do not count: drivers and nodes die, too, which is no fault of the trial,
    whereas a trial that breaks its worker does so on the same node again.
    """
    mark = [request.driver, *sorted(str(file.relative_to(folder)) for file in folder.rglob("*.pt"))]
    before = json.loads(request.folder.read(STARTS) or "{}")
    counts: dict[str, int] = before["counts"] if before.get("mark") == mark else {}
    counts[request.node] = counts.get(request.node, 0) + 1
    request.folder.write(STARTS, json.dumps({"mark": mark, "counts": counts}).encode())
    return counts[request.node]
