"""How far a trial's unfinished attempt is: one small JSON file, replaced in place, which `run` and `status` read."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

EVERY = 1.0  # seconds between two writes


@dataclass(frozen=True)
class Progress:
    step: int
    steps: int
    rate: float  # training steps per second of late
    phase: str  # starting, reading … of … images, training, evaluating or stopped

    @property
    def share(self) -> float:
        return self.step / self.steps


class Reporter:
    """Writes a trial's progress as it trains, not more often than every EVERY seconds."""

    def __init__(self, folder: Path, steps: int):
        self.path, self.steps = folder / "progress.json", steps
        self.step, self.clock, self.rate = read(folder).step if read(folder) else 0, time.monotonic(), 0.0
        self.write("starting")

    def __call__(self, step: int) -> None:
        elapsed = time.monotonic() - self.clock
        if elapsed < EVERY and step < self.steps:
            return
        self.rate = max(0, step - self.step) / elapsed  # a resumed training may be behind what was told before
        self.step, self.clock = step, time.monotonic()
        self.write("training" if step < self.steps else "evaluating")

    def reading(self, done: int, total: int) -> None:
        """Images decoded, of all."""
        if time.monotonic() - self.clock >= EVERY:
            self.clock = time.monotonic()
            self.write(f"reading {done:,} of {total:,} images")

    def write(self, phase: str) -> None:
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(Progress(self.step, self.steps, self.rate, phase))))
        temporary.replace(self.path)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def read(folder: Path) -> Progress | None:
    try:
        return Progress(**json.loads((folder / "progress.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
