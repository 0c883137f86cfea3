"""Ctrl-C and SIGTERM during a session."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

STOPPED = 130  # exit status of a program that the user stopped


class Signals:
    """A context in which the first signal asks for an end, and the second one ends the process at once.

    The first signal raises KeyboardInterrupt, or calls the action that `stop_by` set. At a sudden end the kernel kills what
    Ray has started on this machine.
    """

    def __init__(self) -> None:
        self._seen = False
        self._request_stop: Callable[[], object] | None = None

    def stop_by(self, request_stop: Callable[[], object]) -> None:
        """Call `request_stop` at the first signal from now on, in a thread, since a store may take its time.

        Raises:
            KeyboardInterrupt: A signal has come already. Python ignores exceptions where an object is freed, so the one
                that the signal raised may have been lost.
        """
        self._request_stop = request_stop
        if self._seen:
            raise KeyboardInterrupt

    def __enter__(self) -> "Signals":
        self._hook, sys.unraisablehook = sys.unraisablehook, self._ignore_interrupt
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        sys.unraisablehook = self._hook

    def _ignore_interrupt(self, unraisable: Any) -> None:
        """Print nothing about a KeyboardInterrupt that Python ignores: `stop_by` raises it again."""
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            self._hook(unraisable)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._seen:
            print("diffseg: stopped at once", file=sys.stderr, flush=True)
            os._exit(STOPPED)
        self._seen = True
        if self._request_stop is None:
            raise KeyboardInterrupt
        threading.Thread(target=self._request_stop, daemon=True).start()
