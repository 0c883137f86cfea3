"""How far running trials are: one small JSON file a trial, replaced in place, which `run` and `status` read."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

EVERY = 1.0  # seconds between two writes


@dataclass(frozen=True)
class Progress:
    step: int
    steps: int
    rate: float       # training steps per second of late
    phase: str        # "training" or "evaluating"
    updated: float    # seconds since the epoch

    @property
    def share(self) -> float:
        return self.step / self.steps


class Reporter:
    """Writes a trial's progress as it goes, not more often than every EVERY seconds."""

    def __init__(self, folder: Path, steps: int):
        self.path, self.steps = folder / "progress.json", steps
        self.step, self.clock, self.rate = 0, time.monotonic(), 0.0
        self._write("starting")

    def __call__(self, step: int) -> None:
        elapsed = time.monotonic() - self.clock
        if elapsed < EVERY and step < self.steps:
            return
        self.rate = (step - self.step) / elapsed if self.step or not self.rate else self.rate
        self.step, self.clock = step, time.monotonic()
        self._write("training" if step < self.steps else "evaluating")

    def _write(self, phase: str) -> None:
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(Progress(self.step, self.steps, self.rate, phase, time.time()))))
        temporary.replace(self.path)


def read(folder: Path) -> Progress | None:
    try:
        return Progress(**json.loads((folder / "progress.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
