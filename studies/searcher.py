"""What Tune runs next: whatever the ledger lacks."""

from dataclasses import asdict
from pathlib import Path

from ray.tune.search import Searcher

from studies.worker import Order


class Missing(Searcher):
    """Proposes the orders of a study that are not in the ledger yet, in their order, until the stop file exists.

    It keeps nothing that Tune could restore: at every start the ledger says what is missing.
    """

    def __init__(self, orders: list[Order], stop_file: Path):
        super().__init__()
        self._waiting = list(reversed(orders))
        self._stop_file = stop_file

    def suggest(self, trial_id: str) -> dict | str:
        if not self._waiting or self._stop_file.exists():
            return Searcher.FINISHED
        return asdict(self._waiting.pop())

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass
