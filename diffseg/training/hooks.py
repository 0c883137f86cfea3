"""How a run talks to its caller."""

from collections.abc import Callable
from dataclasses import dataclass

from diffseg.rows import Row


@dataclass
class Hooks:
    """Functions that a run calls. All should return at once.

    should_stop: Return whether to leave a checkpoint and raise Stopped.
    should_save: Return whether to leave a checkpoint now, since the machine may go soon.
    on_log: Receive the step and its metrics, between two steps.
    on_data: Receive the number of images decoded and their total, where the cache lacks them.
    on_evaluation: Receive the step and what was measured there; return the reason to end the training there, or None. A row
        has a metric and its value, the mean or that of one image; the latter also has image and group.
    """

    should_stop: Callable[[], bool] = lambda: False
    should_save: Callable[[], bool] = lambda: False
    on_log: Callable[[int, dict[str, float]], None] = lambda step, metrics: None
    on_data: Callable[[int, int], None] = lambda done, total: None
    on_evaluation: Callable[[int, list[Row]], str | None] = lambda step, rows: None
