"""A watchdog for a training that hangs, for example on a network file system or a device that does not answer.

It ends the worker, with the stacks of all threads in the trial's log. Ray Train then starts another worker, which resumes
from the last checkpoint.
"""

import faulthandler
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

LEAST = 1800.0  # seconds without a heartbeat that are always allowed: nnU-Net predicts without one
FACTOR = 20.0  # times the longest pause between heartbeats so far that are allowed
EXIT_STATUS = 70  # of the process that is ended


class Watchdog:
    """A context in which heartbeats must keep coming. The watch begins with the first heartbeat."""

    def __init__(self, log: Path, least: float = LEAST, end: Callable[[int], object] = os._exit):
        """Watch for pauses of more than `least` seconds; `end` ends the process with a status."""
        self.log, self.least, self.end = log, least, end
        self.last, self.longest = 0.0, 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def with_heartbeat(self, action: Callable[[], bool]) -> Callable[[], bool]:
        """Wrap an action so that every call of it is a heartbeat."""

        def beat() -> bool:
            now = time.monotonic()
            if self.last:
                self.longest = max(self.longest, now - self.last)
            self.last = now
            return action()

        return beat

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self.least / 20):
            limit = max(self.least, FACTOR * self.longest)
            if self.last and time.monotonic() - self.last > limit:
                logging.error("no step for %.0f s (at most %.1f s before): this worker ends", limit, self.longest)
                with self.log.open("a", encoding="utf-8") as file:
                    faulthandler.dump_traceback(file)
                self.end(EXIT_STATUS)
                return
