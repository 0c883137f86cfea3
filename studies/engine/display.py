"""The one live line of a running study, read from the store, so that it shows what is really there."""

import sys
import threading
import time

from rich.console import Console

from studies.definition.study import Study
from studies.definition.trial import Trial
from studies.planning.estimate import cost, costs
from studies.store.latest import LatestRows
from studies.store.ledger import Ledger
from studies.store.state import COLUMNS, TrialState, count_statuses, trial_states


class Display:
    """A context in which a thread keeps the line up to date; failures are named once, above it.

    On a terminal the line is rewritten twice a second; elsewhere it is printed every half minute.
    """

    def __init__(self, study: Study, ledger: Ledger, planned: list[Trial], quiet: bool = False):
        """planned: what this session is to do, as far as it is known."""
        self.study, self.ledger, self.latest = study, ledger, LatestRows(ledger, COLUMNS)
        names, found = [trial.name for trial in planned], costs(trial.config for trial in planned)
        self.weights = {name: one.flops for name, one in zip(names, found, strict=True)}
        self.console = Console(file=sys.stderr, quiet=quiet, highlight=False)
        self.started, self.before, self.pause = time.monotonic(), None, 0.5
        self.told = {
            (state.trial, state.attempt)
            for state in trial_states(study, ledger, self.latest)
            if state.status == "failed"
        }
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> "Display":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._end.set()
        self._thread.join()

    def _loop(self) -> None:
        if self.console.is_terminal:
            with self.console.status("", spinner="line") as status:
                while not self._end.wait(self.pause):
                    status.update(self._line())
        while not self._end.wait(30):
            self._print(self._line())
        self._print(self._line())

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def _line(self) -> str:
        clock = time.monotonic()
        if self.study.starts:  # a search goes on proposing
            fresh = [trial for trial in self.study.known_trials(self.ledger) if trial.name not in self.latest.rows()]
            self.weights |= {one.name: cost(one.config).flops for one in fresh if one.name not in self.weights}
        found = trial_states(self.study, self.ledger, self.latest)
        self.pause = max(0.5, 10 * (time.monotonic() - clock))  # a large store is not read all the time
        for state in found:
            if state.status == "failed" and (state.trial, state.attempt) not in self.told:
                self.told.add((state.trial, state.attempt))
                self.console.print(
                    f"failed: {state.trial}: {state.row['error']} (log: {state.row['log']})", markup=False
                )
        number = count_statuses(found)
        parts = [f"{self.study.name}: {number['complete']} of {self._asked(found)} trials done"]
        parts += [f"{number[status]} {status}" for status in ("running", "pruned", "failed") if number[status]]
        rate = sum(
            state.progress.rate for state in found if state.status == "running" and state.progress.phase == "training"
        )
        if rate:
            parts.append(f"{rate:.1f} steps/s")
        parts += sorted({
            state.progress.phase for state in found if state.status == "running" and state.progress.phase[:7] == "reading"
        })  # fmt: skip
        return " · ".join([*parts, self._left(found)])

    def _left(self, found: list[TrialState]) -> str:
        """Time left, from the share of the estimated work that this session has done so far."""
        mine = [(self.weights[state.trial], state.settled) for state in found if state.trial in self.weights]
        done = sum(weight * share for weight, share in mine)
        if self.before is None:
            self.before = done
        elapsed, total = time.monotonic() - self.started, sum(weight for weight, _ in mine)
        if starts := self.study.starts:  # what is still to be proposed is taken to cost as much as what it starts from
            total += (self._asked(found) - len(found)) * sum(self.weights[each.name] for each in starts) / len(starts)
        if done >= total:
            return f"{_clock(elapsed)} in all"
        if done - self.before < 0.02 * total or elapsed < 5:
            return f"{_clock(elapsed)} so far"
        return f"about {_clock(elapsed / (done - self.before) * (total - done))} left"

    def _asked(self, found: list[TrialState]) -> int:
        return max(len(found), self.study.requested_trials)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
