"""What Tune runs next: whatever the ledger lacks, or a search proposes."""

from collections.abc import Callable
from dataclasses import asdict

from ray.tune.search import Searcher

from studies.definition.trial import Trial
from studies.engine.driver import clear
from studies.engine.scheduler import Agenda
from studies.engine.worker import STOP, Order
from studies.store.outages import retry_outages

DRIVER_DEATHS = 3  # after so many an order is given up for this session


class Missing(Searcher):
    """Proposes what the agenda says is next, until the stop file exists.

    An order whose driver died is proposed again. Nothing is kept that Tune could restore: at every start the ledger
    says what is missing.
    """

    def __init__(self, agenda: Agenda, order: Callable[[Trial], Order]):
        super().__init__()
        self._agenda, self._order = agenda, order
        self._proposed: dict[str, Order] = {}
        self._deaths: dict[str, int] = {}
        self._idle = False  # nothing is to be done until something ends

    def suggest(self, trial_id: str) -> dict | str | None:
        if retry_outages(lambda: self._agenda.ledger.folder.exists(STOP)):
            return Searcher.FINISHED
        trial = None if self._idle else retry_outages(lambda: self._agenda.next(self._busy()))
        if trial is None:
            self._idle = bool(self._proposed)  # a driver that dies now would bring its order back
            return None if self._idle else Searcher.FINISHED
        self._proposed[trial_id] = self._order(trial)
        return asdict(self._proposed[trial_id])

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        order, self._idle = self._proposed.pop(trial_id), False
        retry_outages(lambda: clear(order, died=error))
        if error:
            self._deaths[order.trial] = self._deaths.get(order.trial, 0) + 1

    def _busy(self) -> set[str]:
        """Trials that run, and those that are given up for this session."""
        given_up = {trial for trial, deaths in self._deaths.items() if deaths >= DRIVER_DEATHS}
        return given_up | {order.trial for order in self._proposed.values()}

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass
