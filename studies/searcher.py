"""What Tune runs next: whatever the ledger lacks."""

from dataclasses import asdict
from pathlib import Path

from ray.tune.search import Searcher

from studies.driver import free_placement_group
from studies.worker import Order

DRIVER_DEATHS = 3  # after so many an order is given up for this session


class Missing(Searcher):
    """Proposes the orders of a study that are not in the ledger yet, in their order, until the stop file exists.

    An order that needs the networks of others (a deep ensemble) waits until those are no longer to be done.
    An order whose driver died is proposed again. Nothing is kept that Tune could restore: at every start the ledger
    says what is missing.
    """

    def __init__(self, orders: list[Order], stop_file: Path):
        super().__init__()
        self._waiting = list(orders)
        self._proposed: dict[str, Order] = {}
        self._deaths: dict[str, int] = {}
        self._stop_file = stop_file

    def suggest(self, trial_id: str) -> dict | str | None:
        if self._stop_file.exists():
            return Searcher.FINISHED
        if not self._waiting and not self._proposed:
            return Searcher.FINISHED
        unfinished = {order.trial for order in (*self._waiting, *self._proposed.values())}
        for index, order in enumerate(self._waiting):
            if not unfinished.intersection(order.needs):
                self._proposed[trial_id] = self._waiting.pop(index)
                return asdict(order)
        return None  # a driver that dies now would bring its order back

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        order = self._proposed.pop(trial_id)
        if error:
            free_placement_group(order)
            self._deaths[order.trial] = self._deaths.get(order.trial, 0) + 1
            if self._deaths[order.trial] < DRIVER_DEATHS:
                self._waiting.insert(0, order)

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass
