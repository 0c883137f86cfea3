"""The row that an attempt at a trial leaves in the ledger's table `trials`."""

import datetime
import json
import socket
from typing import Any

from diffseg import config as configuration
from studies.definition.trial import scored_images
from studies.engine.files import STARTS
from studies.engine.provenance import package_versions
from studies.engine.request import TrialRequest
from studies.store.names import log_name
from studies.store.progress import NAME as PROGRESS


def trial_row(request: TrialRequest, status: str, error: str | None, started: datetime.datetime) -> dict[str, Any]:
    """Build the columns that every attempt has, whatever it measured."""
    config = configuration.load(request.config)
    return {
        "study": request.study,
        "digest": config.digest,
        "status": status,
        "experiment": config.experiment,
        "dataset": config.data.name,
        "network": config.network.name,
        "seed": config.seed,
        "configuration": config.configuration,
        "role": request.role,
        "scored_on": scored_images(config.data.held_out),
        "config": request.config,
        "trained": config.trained,
        "host": socket.gethostname(),
        "git_commit": request.commit,
        "dirty": request.dirty,
        "versions": json.dumps(package_versions()),
        "started": started,
        "finished": datetime.datetime.now(datetime.UTC),
        "error": error,
        "log": f"{request.study}/{log_name(request.trial)}",
        **{
            "config_" + path.replace(".", "_"): json.dumps(value) if isinstance(value, list | dict) else value
            for path, value in config.leaves().items()
            if value is not None
        },
    }


def recorded_status(request: TrialRequest) -> str | None:
    """Return the status of the attempt if it is recorded already, by a worker that died afterwards; None if it is not."""
    rows = request.ledger.read("trials", ["attempt", "status"], [request.trial]).to_pylist()
    return next((str(row["status"]) for row in rows if row["attempt"] == request.attempt), None)


def record_failure(request: TrialRequest, error: str) -> str:
    """Record a failed attempt whose worker could not do so itself; return the status, "failed"."""
    row = trial_row(request, "failed", error, datetime.datetime.now(datetime.UTC))
    request.ledger.write(request.trial, request.attempt, {"trials": [row]})
    remove_traces(request)
    return "failed"


def remove_traces(request: TrialRequest) -> None:
    """Remove the files that exist only while an attempt is unfinished."""
    for name in (PROGRESS, STARTS):
        request.folder.remove(name)
