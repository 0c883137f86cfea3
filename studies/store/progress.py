"""The progress of a trial's unfinished attempt: one small JSON file, replaced in place, which `run` and `status` read."""

import contextlib
import json
import time
from dataclasses import asdict, dataclass

from studies.store.folder import Folder

NAME = "progress.json"
EVERY, EVERY_REMOTE = 1.0, 10.0  # seconds between two writes, in a local folder and behind a URI


@dataclass(frozen=True)
class Progress:
    """How far an attempt is."""

    step: int
    steps: int
    rate: float  # training steps per second since the last write
    phase: str  # starting, reading … of … images, training, evaluating or stopped

    @property
    def share(self) -> float:
        """The share of the training steps that is done, 0 to 1."""
        return self.step / self.steps


class ProgressWriter:
    """Writes a trial's progress while it trains, every few seconds at most. A failed write is skipped."""

    def __init__(self, folder: Folder, steps: int) -> None:
        self.folder, self.steps, self.every = folder, steps, EVERY if folder.local else EVERY_REMOTE
        before = read_progress(folder)
        self.step, self.clock, self.rate = before.step if before else 0, time.monotonic(), 0.0
        self.write("starting")

    def __call__(self, step: int) -> None:
        """Report a training step."""
        elapsed = time.monotonic() - self.clock
        if elapsed < self.every and step < self.steps:
            return
        self.rate = max(0, step - self.step) / elapsed  # a resumed training may be behind what was reported before
        self.step, self.clock = step, time.monotonic()
        self.write("training" if step < self.steps else "evaluating")

    def report_reading(self, done: int, total: int) -> None:
        """Report the number of images that were decoded, out of all images."""
        if time.monotonic() - self.clock >= self.every:
            self.clock = time.monotonic()
            self.write(f"reading {done:,} of {total:,} images")

    def write(self, phase: str) -> None:
        """Write the progress now. A store that is out of reach is ignored."""
        with contextlib.suppress(OSError):
            self.folder.write(NAME, json.dumps(asdict(Progress(self.step, self.steps, self.rate, phase))).encode())


def read_progress(folder: Folder) -> Progress | None:
    """Return the progress that a trial's folder holds; None if there is none or it cannot be read."""
    try:
        return Progress(**json.loads(folder.read(NAME) or ""))
    except (OSError, ValueError, TypeError):
        return None
