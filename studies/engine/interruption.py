"""Requests from outside that end a training or make it save: the study's stop file, and the notice that a node goes."""

import contextlib
import logging
import os
import time

from studies.engine.files import STOP
from studies.store.folder import Folder

LOOK, LOOK_REMOTE = 0.2, 5.0  # seconds between two looks at a study's stop file, in a folder and behind a URI
WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"


class StopFile:
    """A function that says whether the study's stop file exists. Between two looks at the store it returns False."""

    def __init__(self, folder: Folder):
        self.folder, self.interval, self.looked = folder, LOOK if folder.local else LOOK_REMOTE, 0.0

    def __call__(self) -> bool:
        """Look for the file if it is time to."""
        if time.monotonic() - self.looked < self.interval:
            return False
        self.looked = time.monotonic()
        with contextlib.suppress(OSError):  # the store is away
            return self.folder.exists(STOP)
        return False


class PreemptionNotice:
    """A function that returns True once, when Ray says that the worker's node is about to be taken away."""

    def __init__(self) -> None:
        self.received, self.looked = False, 0.0

    def __call__(self) -> bool:
        """Ask Ray at most once a second, and only where its preemption watcher runs."""
        if self.received or os.environ.get(WATCHER) != "1" or time.monotonic() - self.looked < 1.0:
            return False
        import ray.train

        self.looked, self.received = time.monotonic(), ray.train.get_preemption_info() is not None
        if self.received:
            logging.info("this node is about to be taken away: leaving a checkpoint")
        return self.received
