"""How far a trial's unfinished attempt is: one small JSON file, replaced in place, which `run` and `status` read."""

import contextlib
import json
import time
from dataclasses import asdict, dataclass

from studies.store.folder import Folder

NAME = "progress.json"
EVERY, EVERY_REMOTE = 1.0, 10.0  # seconds between two writes, into a folder and behind a URI


@dataclass(frozen=True)
class Progress:
    step: int
    steps: int
    rate: float  # training steps per second of late
    phase: str  # starting, reading … of … images, training, evaluating or stopped

    @property
    def share(self) -> float:
        return self.step / self.steps


class ProgressWriter:
    """Writes a trial's progress as it trains, not more often than every few seconds. A store that is away misses some."""

    def __init__(self, folder: Folder, steps: int):
        self.folder, self.steps, self.every = folder, steps, EVERY if folder.local else EVERY_REMOTE
        before = read_progress(folder)
        self.step, self.clock, self.rate = before.step if before else 0, time.monotonic(), 0.0
        self.write("starting")

    def __call__(self, step: int) -> None:
        elapsed = time.monotonic() - self.clock
        if elapsed < self.every and step < self.steps:
            return
        self.rate = max(0, step - self.step) / elapsed  # a resumed training may be behind what was told before
        self.step, self.clock = step, time.monotonic()
        self.write("training" if step < self.steps else "evaluating")

    def reading(self, done: int, total: int) -> None:
        """Images decoded, of all."""
        if time.monotonic() - self.clock >= self.every:
            self.clock = time.monotonic()
            self.write(f"reading {done:,} of {total:,} images")

    def write(self, phase: str) -> None:
        with contextlib.suppress(OSError):
            self.folder.write(NAME, json.dumps(asdict(Progress(self.step, self.steps, self.rate, phase))).encode())


def read_progress(folder: Folder) -> Progress | None:
    try:
        return Progress(**json.loads(folder.read(NAME) or ""))
    except (OSError, ValueError, TypeError):
        return None
