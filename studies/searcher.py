"""What Tune runs next: whatever the ledger lacks."""

from dataclasses import asdict
from pathlib import Path

from ray.tune.search import Searcher

from studies.driver import free_placement_group
from studies.worker import Order

DRIVER_DEATHS = 3  # after so many an order is given up for this session


class Missing(Searcher):
    """Proposes the orders of a study that are not in the ledger yet, in their order, until the stop file exists.

    An order whose driver died is proposed again. Nothing is kept that Tune could restore: at every start the ledger
    says what is missing.
    """

    def __init__(self, orders: list[Order], stop_file: Path):
        super().__init__()
        self._waiting = list(reversed(orders))
        self._proposed: dict[str, Order] = {}
        self._deaths: dict[str, int] = {}
        self._stop_file = stop_file

    def suggest(self, trial_id: str) -> dict | str | None:
        if self._stop_file.exists():
            return Searcher.FINISHED
        if not self._waiting:
            return None if self._proposed else Searcher.FINISHED  # a driver that dies now would bring its order back
        order = self._proposed[trial_id] = self._waiting.pop()
        return asdict(order)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        order = self._proposed.pop(trial_id)
        if error:
            free_placement_group(order)
            self._deaths[order.trial] = self._deaths.get(order.trial, 0) + 1
            if self._deaths[order.trial] < DRIVER_DEATHS:
                self._waiting.append(order)

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass
