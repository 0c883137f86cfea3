"""The record of `diffseg auto` in a study's folder: what was asked for, planned and begun, so that the same command resumes."""

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from diffseg.errors import UserError
from studies.store.ledger import Ledger

NAME = "auto.json"


@dataclass(frozen=True)
class Stage:
    """A part of the study: trials that run before those of the next part."""

    name: str
    parts: list[dict[str, Any]]  # each the tables of a study file
    seconds: float  # that it is expected to take
    reason: str


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    data: str
    root: str
    hours: float
    metric: str
    settings: dict[str, Any]  # by their dotted paths; they override the planned ones
    cpus: float = 1.0  # of each trial
    gpus: float | None = None


@dataclass(frozen=True)
class Record:
    """What was planned, and the stages that have begun."""

    request: Request
    choices: list[tuple[dict[str, Any], str]]  # settings and the reason for them
    lanes: int  # trials side by side
    paces: dict[str, tuple[float, float]]  # e1, e2 and small → seconds of a training step, and of a test image
    train_images: int
    test_images: int
    planning: float  # seconds that the plan took
    most_steps: int
    elapsed: float = 0.0  # seconds that the command took until the last stage ended, without those before it was killed
    stages: list[Stage] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)  # stages that do not fit, and why

    @property
    def settings(self) -> dict[str, Any]:
        """All planned settings by their dotted paths."""
        return {path: value for settings, _ in self.choices for path, value in settings.items()}

    @property
    def decided(self) -> set[str]:
        """The names of the stages that have begun, or that do not fit."""
        return {stage.name for stage in self.stages} | {name for name, _ in self.skipped}

    def begin(self, stage: Stage) -> "Record":
        """Return the record with one more stage."""
        return replace(self, stages=[*self.stages, stage])

    def skip(self, name: str, reason: str) -> "Record":
        """Return the record with one more stage that does not fit."""
        return replace(self, skipped=[*self.skipped, (name, reason)])

    def withdraw(self, name: str, reason: str) -> "Record":
        """Return the record without a stage that has begun, and why."""
        return replace(self, stages=[one for one in self.stages if one.name != name]).skip(name, reason)


def read_record(ledger: Ledger, request: Request) -> Record | None:
    """Return the record of a study; None if there is none.

    Raises UserError if it is of another request, or damaged. The root of the data set may have moved.
    """
    content = ledger.folder.read(NAME)
    if content is None:
        if ledger.is_defined():
            raise UserError(f"study {ledger.study} exists, but not by `diffseg auto`: give another --name")
        return None
    try:
        found = json.loads(content)
        stages = [Stage(**stage) for stage in found.pop("stages")]
        record = Record(request=Request(**found.pop("request")), stages=stages, **found)
    except (TypeError, ValueError, KeyError):
        raise UserError(
            f"{ledger.root}/{NAME} is damaged: `diffseg run {ledger.study}` finishes what had begun, and another --name plans anew"
        ) from None
    asked, planned = asdict(request), asdict(record.request)
    if differing := [key for key in asked if key != "root" and asked[key] != planned[key]]:
        words = ", ".join(f"{key} {planned[key]} → {asked[key]}" for key in differing)
        raise UserError(f"study {ledger.study} was planned otherwise ({words}): give the same again, or another --name")
    return replace(record, request=request)


def write_record(ledger: Ledger, record: Record) -> None:
    """Write the record in one step."""
    ledger.folder.write(NAME, json.dumps(asdict(record), indent=1).encode(), durable=True)
