"""The log of a trial while the trial runs, for people who follow it."""

import time
from collections.abc import Iterator

from studies.store.ledger import Ledger
from studies.store.lock import Lock
from studies.store.names import log_name
from studies.store.progress import read_progress

EVERY = 1.0  # seconds between two looks at a log, and half of those between two looks at a study


def read_log(ledger: Ledger, trial: str) -> list[str]:
    """Return the lines of a trial's log; none if there is no log yet."""
    content = ledger.folder.read(log_name(trial)) or b""
    return content.decode(errors="replace").splitlines()


def follow_log(ledger: Ledger, trial: str, last: int) -> Iterator[str]:
    """Yield the last lines of a trial's log, and then each line that is written, until the trial or its session ends.

    last: the number of lines that are yielded of those that exist.
    """
    lines = read_log(ledger, trial)
    yield from lines[-last:]
    seen = len(lines)
    while _is_expected(ledger, trial):
        time.sleep(EVERY)
        lines = read_log(ledger, trial)
        yield from lines[seen:]
        seen = len(lines)


def watch_session(ledger: Ledger) -> Iterator[bool]:
    """Yield True every two seconds while a session runs the study, and at last False."""
    while Lock(ledger.folder).is_held():
        yield True
        time.sleep(2 * EVERY)
    yield False


def _is_expected(ledger: Ledger, trial: str) -> bool:
    """Return whether a session runs the study and the trial is running, or has yet to run."""
    if not Lock(ledger.folder).is_held():
        return False
    return read_progress(ledger.folder.at(f"work/{trial}")) is not None or trial not in ledger.last_attempts()
