"""Outages of a store: OSErrors as sentences, and waiting for a store that is out of reach."""

import contextlib
import errno
import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from diffseg.errors import StoreError

T = TypeVar("T")
log = logging.getLogger(__name__)
PATIENCE = 300.0  # seconds for which a store may be out of reach before a trial gives up
FULL = {errno.ENOSPC, errno.EDQUOT}


@contextlib.contextmanager
def read_errors(place: str) -> Iterator[None]:
    """Raise StoreError if a store cannot be read. A FileNotFoundError stays as it is."""
    try:
        yield
    except (StoreError, FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise StoreError(
            f"{place} cannot be read ({_one_line(error)}): check that the store is there and may be read, "
            "or give another with --store DIR"
        ) from error


@contextlib.contextmanager
def write_errors(place: str) -> Iterator[None]:
    """Raise StoreError if a store cannot be written."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        if error.errno in FULL:
            raise StoreError(
                f"{place} cannot be written, since its disk or quota is full ({_one_line(error)}): make room there and give "
                "the same command again, which resumes; what was recorded is kept"
            ) from error
        raise StoreError(
            f"{place} cannot be written ({_one_line(error)}): check that the store is there and may be written, "
            "or give another with --store DIR"
        ) from error


def retry_outages(action: Callable[[], T], patience: float = PATIENCE) -> T:
    """Run an action on a store, again and again if the store is out of reach.

    Raises the action's OSError if the store stays out of reach for `patience` seconds.
    """
    end, pause = time.monotonic() + patience, 1.0
    while True:
        try:
            return action()
        except OSError as error:
            if time.monotonic() + pause > end:
                raise
            log.warning("the store cannot be used (%s): trying again in %.0f s", error, pause)
        time.sleep(pause)
        pause = min(2 * pause, 30.0)


def _one_line(error: OSError) -> str:
    return " ".join(str(error).split())
