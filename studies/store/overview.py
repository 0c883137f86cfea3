"""The studies in a store, each with the counts of its trials."""

from dataclasses import asdict, dataclass
from typing import Any

from diffseg.errors import DefinitionError, UserError
from studies.definition.study import Study, stored_study
from studies.store.folder import open_store
from studies.store.ledger import Ledger
from studies.store.lock import Lock
from studies.store.state import STATUSES, count_statuses, trial_states


@dataclass(frozen=True)
class StudyOverview:
    """One study of a store."""

    study: str
    running: bool  # whether a session runs it now
    trials: int  # that there should be, at most
    counts: dict[str, int]  # trials by status, as far as they are known; all 0 if the definition cannot be read
    problem: str | None = None  # why the definition cannot be read

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON."""
        return asdict(self)


def studies_in(store: str) -> list[StudyOverview]:
    """Return the studies of a store by name. Raises UserError if the store cannot be used."""
    return [_overview(ledger) for name in open_store(store).folders() if (ledger := _ledger(store, name))]


def _ledger(store: str, name: str) -> Ledger | None:
    """Return the ledger of a folder in the store; None if the folder holds no study."""
    try:
        ledger = Ledger(store, name)
    except UserError:  # a study cannot have this name
        return None
    return ledger if ledger.is_defined() else None


def _overview(ledger: Ledger) -> StudyOverview:
    running = Lock(ledger.folder).is_held()
    try:
        study = stored_study(ledger.study, ledger.definition() or {})
        found = trial_states(study, ledger)
    except DefinitionError as error:
        return StudyOverview(ledger.study, running, 0, dict.fromkeys(STATUSES, 0), str(error))
    return StudyOverview(ledger.study, running, _count_requested(study, ledger, len(found)), count_statuses(found))


def _count_requested(study: Study, ledger: Ledger, known: int) -> int:
    """Return the number of trials that there should be, at most. Only a study with searches imports what they need."""
    if not study.search:
        return known
    from studies.search.upcoming import count_requested

    return count_requested(study, ledger, known)
