"""The request for one attempt at a trial, which travels from the session through a driver to the trial's workers."""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from studies.definition.study import Study
from studies.definition.trial import Trial
from studies.engine.resources import Resources
from studies.store.folder import Folder, absolute_place
from studies.store.ledger import Ledger


@dataclass(frozen=True)
class TrialRequest:
    """One attempt at one trial, in plain values."""

    store: str
    study: str
    trial: str
    attempt: int
    config: str  # canonical JSON
    root: str | None  # of the data set; None: synthetic
    cpus: float  # of each worker
    gpus: float  # of each worker
    commit: str | None  # of the code; None where it is installed
    dirty: bool  # whether the code was changed since that commit
    driver: str = ""  # unique name of the driver process
    node: str = ""  # Ray's name of the node that the worker runs on
    rungs: dict[str, Any] | None = None  # fields of Rungs; None: the trial is not compared while it runs
    workers: int = 1  # that train the trial together
    labels: dict[str, str] = field(default_factory=dict)  # that the workers' nodes must have
    memory: int = 0  # bytes of each worker
    role: str = "trial"  # why the study runs the trial: one of studies.definition.trial.ROLES

    @cached_property
    def ledger(self) -> Ledger:
        """The study's ledger."""
        return Ledger(self.store, self.study)

    @cached_property
    def folder(self) -> Folder:
        """The trial's folder: checkpoints, progress and log."""
        return self.ledger.folder.at(f"work/{self.trial}")


def build_request(
    study: Study, ledger: Ledger, share: Resources, code: tuple[str | None, bool], trial: Trial
) -> TrialRequest:
    """Request the next attempt at a trial.

    Args:
        share: What the trial gets, as `allocate` returns it.
        code: The commit of the code and whether it was changed since, as `code_version` returns them.
    """
    return TrialRequest(
        store=absolute_place(ledger.store),
        study=study.name,
        trial=trial.name,
        attempt=ledger.last_attempts().get(trial.name, 0) + 1,
        config=trial.config.canonical(),
        root=study.roots.get(trial.config.data.name),
        cpus=share.cpus,
        gpus=share.gpus or 0.0,
        commit=code[0],
        dirty=code[1],
        rungs=asdict(trial.rungs) if trial.rungs else None,
        workers=share.workers,
        labels=share.labels,
        memory=share.memory,
        role=trial.role,
    )
