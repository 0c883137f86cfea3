"""What searches are still to make: their next proposals, and the confirmations of the best."""

from collections.abc import Iterator
from dataclasses import dataclass

from studies.definition.study import Study
from studies.search.history import EvaluatedSearch, read_searches
from studies.search.stopping import COLUMNS, explain_end, reason_to_give_up
from studies.store.ledger import Ledger


@dataclass(frozen=True)
class Upcoming:
    """The largest numbers of proposals that a search is still to make. Those in the ledger do not count."""

    search: str  # name of the trial that it starts from
    proposals: int
    confirmations: int
    end: str | None  # why it has ended before its budget was used up


def list_upcoming(study: Study, ledger: Ledger) -> Iterator[Upcoming]:
    """Yield what each search of a study is still to make."""
    for one in read_searches(study, ledger, COLUMNS):
        end = explain_end(study.name, one, study.priors.get(one.history.name, ()))
        left = 0 if end else one.history.search.budget - len(one.tried)
        yield Upcoming(one.history.name, left, _count_confirmations(study, one, at_end=not left), end)


def _count_confirmations(study: Study, one: EvaluatedSearch, at_end: bool) -> int:
    """Return how many confirmations are not in the ledger yet. Which these are is known once all proposals have ended."""
    known = {proposal.trial for proposal in one.history.proposals() if proposal.seed != one.history.start.seed}
    search = one.history.search
    if reason_to_give_up(study.name, search, one.history.name, one.tried, one.rows):
        return 0
    if at_end and not any(tried.status == "running" for tried in one.tried):
        return sum(proposal.trial not in known for proposal in one.history.confirmations(one.tried))
    return search.confirmations - len(known)


def count_requested(study: Study, ledger: Ledger, known: int) -> int:
    """Return the largest number of trials that a study may have. `known` is the number of those that are known.

    Where no search is to make more, it is the number of known ones.
    """
    if known >= study.requested_trials or any(
        one.proposals or one.confirmations for one in list_upcoming(study, ledger)
    ):
        return max(known, study.requested_trials)
    return known
