"""The one live line of a running study. It is read from the store, so that it shows what is really there."""

import sys
import threading
import time

from rich.console import Console

from diffseg.nouns import noun
from studies.definition.study import Study
from studies.definition.trial import Trial
from studies.planning.estimate import estimate_cost, estimate_costs
from studies.search.upcoming import count_requested
from studies.store.latest import LatestRows
from studies.store.ledger import Ledger
from studies.store.state import COLUMNS, TrialState, count_statuses, trial_states

PAUSE, PAUSE_ELSEWHERE = 0.5, 30.0  # seconds between two lines, on a terminal and elsewhere


class Display:
    """A context in which a thread keeps the line up to date and names each failure once, above the line.

    On a terminal the line is rewritten twice a second; elsewhere it is printed every half minute.
    """

    def __init__(self, study: Study, ledger: Ledger, planned: list[Trial], quiet: bool = False):
        """Show a study; planned: the trials that this session will run, as far as they are known."""
        self.study, self.ledger, self.latest = study, ledger, LatestRows(ledger, COLUMNS)
        names, estimates = [trial.name for trial in planned], estimate_costs(trial.config for trial in planned)
        self.flops = {name: one.flops for name, one in zip(names, estimates, strict=True)}
        self.console = Console(file=sys.stderr, quiet=quiet, highlight=False)
        self.started, self.pause = time.monotonic(), PAUSE
        self.flops_before: float | None = None  # done before this session
        self.reported = {
            (state.trial, state.attempt)
            for state in trial_states(study, ledger, self.latest)
            if state.status == "failed"
        }
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> "Display":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _loop(self) -> None:
        if self.console.is_terminal:
            with self.console.status("", spinner="line") as status:
                while not self._end.wait(self.pause):
                    status.update(self._line())
        while not self._end.wait(PAUSE_ELSEWHERE):
            self._print(self._line())
        self._print(self._line(last=True))

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def _line(self, last: bool = False) -> str:
        """Read the store, report new failures, and return the line; the last one counts what searches are still to make."""
        clock = time.monotonic()
        if self.study.starts:  # searches make new proposals
            known = [trial for trial in self.study.known_trials(self.ledger) if trial.name not in self.latest.rows()]
            self.flops |= {one.name: estimate_cost(one.config).flops for one in known if one.name not in self.flops}
        found = trial_states(self.study, self.ledger, self.latest)
        self.pause = max(PAUSE, 10 * (time.monotonic() - clock))  # a large store is not read all the time
        self._report_failures(found)
        number, requested = count_statuses(found), self._requested(found, last)
        parts = [f"{self.study.name}: {number['complete']} of {requested} {noun(requested, 'trial')} done"]
        parts += [f"{number[status]} {status}" for status in ("running", "pruned", "failed") if number[status]]
        running = [state.progress for state in found if state.status == "running" and state.progress]
        if rate := sum(one.rate for one in running if one.phase == "training"):
            parts.append(f"{rate:.1f} steps/s")
        parts += sorted({one.phase for one in running if one.phase.startswith("reading")})
        return " · ".join([*parts, self._time(found, requested)])

    def _report_failures(self, found: list[TrialState]) -> None:
        for state in found:
            if state.status == "failed" and (state.trial, state.attempt) not in self.reported:
                self.reported.add((state.trial, state.attempt))
                text = f"failed: {state.trial}: {state.row['error']} (log: {state.row['log']})"
                self.console.print(text, markup=False)

    def _time(self, found: list[TrialState], requested: int) -> str:
        """Estimate the time left from the share of the work that this session has done so far, or say the time taken.

        The work is counted in the trials' estimated floating-point operations.
        """
        work = [(self.flops[state.trial], state.work_done) for state in found if state.trial in self.flops]
        done, total = sum(flops * share for flops, share in work), sum(flops for flops, _ in work)
        if self.flops_before is None:
            self.flops_before = done
        elapsed = time.monotonic() - self.started
        if starts := self.study.starts:  # a proposal that does not exist yet is taken to cost as much as a start trial
            total += (requested - len(found)) * sum(self.flops[each.name] for each in starts) / len(starts)
        if done >= total:
            return f"{_clock(elapsed)} in all"
        if done - self.flops_before < 0.02 * total or elapsed < 5:
            return f"{_clock(elapsed)} so far"
        return f"about {_clock(elapsed / (done - self.flops_before) * (total - done))} left"

    def _requested(self, found: list[TrialState], last: bool) -> int:
        """Count the trials of the study, those not yet proposed included: at most, or as far as searches still make some."""
        if last and self.study.starts:
            return count_requested(self.study, self.ledger, len(found))
        return max(len(found), self.study.requested_trials)


def _clock(seconds: float) -> str:
    """Write seconds as minutes:seconds, or hours:minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
