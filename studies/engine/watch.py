"""A watch over a trial that no longer goes on: a network file system that hangs, a device that does not answer.

Its worker then ends, with all threads' stacks in the trial's log, and Ray Train starts another from the last checkpoint.
"""

import faulthandler
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

LEAST = 1800.0  # seconds without a sign of life that are nothing unusual: nnU-Net predicts without one
FACTOR = 20.0  # times the longest wait for a sign so far, that are
EXIT_STATUS = 70


class Watch:
    """A context in which `looking` has to be called again and again; waiting begins with the first call."""

    def __init__(self, log: Path, least: float = LEAST, end: Callable[[int], None] = os._exit):
        self.log, self.least, self.end = log, least, end
        self.last, self.longest = 0.0, 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def looking(self, action: Callable[[], bool]) -> Callable[[], bool]:
        """The action, a call of which is a sign of life."""

        def looked() -> bool:
            now = time.monotonic()
            if self.last:
                self.longest = max(self.longest, now - self.last)
            self.last = now
            return action()

        return looked

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._over.wait(self.least / 20):
            limit = max(self.least, FACTOR * self.longest)
            if self.last and time.monotonic() - self.last > limit:
                logging.error("no step for %.0f s (at most %.1f s before): this worker ends", limit, self.longest)
                with self.log.open("a", encoding="utf-8") as file:
                    faulthandler.dump_traceback(file)
                self.end(EXIT_STATUS)
                return
