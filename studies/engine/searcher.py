"""The Tune searcher through which a session tells Ray what to run next."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ray.tune.search import Searcher

from studies.definition.trial import Trial
from studies.engine.driver import clean_up
from studies.engine.files import STOP
from studies.engine.request import TrialRequest
from studies.engine.scheduler import Scheduler
from studies.store.outages import retry_outages

FINISHED: str = Searcher.FINISHED  # Tune's word for the end of a search
DRIVER_DEATHS = 3  # deaths of its drivers after which a trial is given up for this session


class LedgerSearcher(Searcher):  # type: ignore[misc]  # Ray is untyped
    """Proposes the scheduler's next trial until the stop file exists.

    A trial whose driver died is proposed again. There is no state that Tune could restore: at every start the ledger says
    what is missing.
    """

    def __init__(self, scheduler: Scheduler, build_request: Callable[[Trial], TrialRequest]):
        super().__init__()
        self._scheduler, self._build_request = scheduler, build_request
        self._running: dict[str, TrialRequest] = {}  # by Tune's name of the trial
        self._deaths: dict[str, int] = {}  # of drivers, by trial
        self._idle = False  # nothing is to be done until a trial ends

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the fields of the next request, None to be asked again later, or FINISHED."""
        if retry_outages(lambda: self._scheduler.ledger.folder.exists(STOP)):
            return FINISHED
        trial = None if self._idle else retry_outages(lambda: self._scheduler.next_trial(self._busy()))
        if trial is None:
            self._idle = bool(self._running)  # a driver that dies now would bring its trial back
            return None if self._idle else FINISHED
        self._running[trial_id] = self._build_request(trial)
        return asdict(self._running[trial_id])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Remove Ray's files of a trial; error: its driver died."""
        request, self._idle = self._running.pop(trial_id), False
        retry_outages(lambda: clean_up(request, died=error))
        if error:
            self._deaths[request.trial] = self._deaths.get(request.trial, 0) + 1

    def _busy(self) -> set[str]:
        """The trials that run, and those that are given up for this session."""
        given_up = {trial for trial, deaths in self._deaths.items() if deaths >= DRIVER_DEATHS}
        return given_up | {request.trial for request in self._running.values()}

    def save(self, checkpoint_path: str) -> None:
        """Save nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""
