"""Ctrl-C and SIGTERM during a session."""

import os
import signal
import sys
import threading
from collections.abc import Callable

STOPPED = 130  # the exit status of what the user stopped


class Signals:
    """A context in which the first signal raises KeyboardInterrupt, or once `gently` was called, asks for an end instead.

    The second signal ends the process at once: what Ray has started on this machine is killed by the kernel with it.
    """

    def __init__(self):
        self._seen, self._ask = False, None

    def gently(self, ask: Callable[[], None]) -> None:
        """From now on `ask` is called at the first signal, in a thread, since a store may take its time.

        Raises KeyboardInterrupt if a signal has come already, and was lost where Python ignores exceptions.
        """
        self._ask = ask
        if self._seen:
            raise KeyboardInterrupt

    def __enter__(self) -> "Signals":
        self._hook, sys.unraisablehook = sys.unraisablehook, self._ignored
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        sys.unraisablehook = self._hook

    def _ignored(self, unraisable) -> None:
        """Say nothing of a KeyboardInterrupt that Python ignores: `gently` raises it again."""
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            self._hook(unraisable)

    def _handle(self, number, frame) -> None:
        if self._seen:
            print("diffseg: stopped at once", file=sys.stderr, flush=True)
            os._exit(STOPPED)
        self._seen = True
        if self._ask is None:
            raise KeyboardInterrupt
        threading.Thread(target=self._ask, daemon=True).start()
