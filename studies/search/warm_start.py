"""Warm start: what a search takes from the searches of other studies before it begins (`search.warm_start`).

The best BEST configurations of each study that the space can propose are tried first, on the own data; they are proposals like
all others. Where the data, their split and all settings but the seed are the same, values compare: there the sampler knows the
other study's complete proposals from the start, too. They are no results of this study and not counted in its budget.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffseg.config import Config
from diffseg.errors import UserError
from diffseg.evaluation import pareto
from studies.definition.study import Study, stored_study
from studies.definition.trial import Trial
from studies.search.constraints import column_of
from studies.search.history import EvaluatedProposal, History
from studies.search.priors import Prior
from studies.search.sampling import Sampler
from studies.search.search import Search
from studies.store.ledger import Ledger, open_ledger

BEST = 3  # configurations of each study that are tried first
KEY = "search.warm_start"
OWN = ("seed", "data.name")  # settings in which comparable trials may differ


@dataclass(frozen=True)
class Candidate:
    """A complete proposal of another study."""

    one: EvaluatedProposal  # by the own objectives and constraints
    config: Config
    start: Config  # of the search that proposed it
    data: str | None  # digest of its data set
    varied: frozenset[str]  # the settings that this search varied
    place: int | None  # among the proposals of its search, 0 the best; None if it exceeds a constraint


def take_priors(study: Study, ledger: Ledger, report: Callable[[str], None]) -> Study:
    """Return the study with the priors of those of its searches that have none yet.

    Args:
        study: Any study.
        ledger: The study's own.
        report: Called with a sentence on what was taken from each study.

    Raises:
        UserError: Another study cannot be used.
    """
    new = [start for start in study.starts if start.name not in study.priors]
    if not study.search or not study.search.warm_start or not new:
        return study
    found: dict[str, list[Prior]] = {start.name: [] for start in new}
    for source in study.search.warm_start:
        other = _open_source(source, ledger)
        candidates = _read_candidates(other, source, study.search)
        taken = {start.name: _choose(candidates, other.study, start, study.search) for start in new}
        if not any(taken.values()):
            raise UserError(
                f"{KEY}: none of the {len(candidates)} complete proposals of study {source} fits search.space: "
                "leave it out, or give a wider space"
            )
        for name, priors in taken.items():
            found[name] += priors
            report(_describe(name, source, len(candidates), priors))
    return replace(study, priors=study.priors | {name: tuple(priors) for name, priors in found.items()})


def _open_source(source: str, own: Ledger) -> Ledger:
    """Open the ledger of a study in the own store, or of STORE/STUDY. Raises UserError if it cannot be used."""
    store, _, name = source.rpartition("/")
    try:
        ledger = open_ledger(store or own.store, name)
    except UserError as error:
        raise UserError(f"{KEY}: {error}") from None
    if _place(ledger) == _place(own):
        raise UserError(f"{KEY}: {source} is this study itself: give the names of other studies")
    return ledger


def _place(ledger: Ledger) -> Any:
    return Path(ledger.root).resolve() if ledger.folder.local else (ledger.folder.filesystem, ledger.root)


def _read_candidates(ledger: Ledger, source: str, search: Search) -> list[Candidate]:
    """Read the complete proposals of a study. Raises UserError if there are none, or none with the search's objectives."""
    other = stored_study(source, ledger.definition() or {})
    if not other.starts:
        raise UserError(f"{KEY}: study {source} has no search, so there is nothing to take from it: leave it out")
    columns = {"status", "data_digest", *search.objective, *map(column_of, search.constraints)}
    rows = {row["trial"]: row for row in ledger.last_rows(columns)}
    found, complete = list[Candidate](), 0
    assert other.search is not None
    tried_as = search.model_copy(
        update={name: getattr(other.search, name) for name in ("fidelities", "folds", "pruning")}
    )
    for start in other.starts:
        history = History(ledger, tried_as, start.name, start.config)
        tried = [one for one in history.evaluate(history.proposals(), rows) if one.status == "complete"]
        complete, varied = complete + len(tried), frozenset(path for one in tried for path in one.proposal.settings)
        places = {one.proposal.number: place for place, one in enumerate(_rank(tried))}
        for one in tried:
            if one.losses is not None and one.proposal.config:
                data = rows[one.proposal.trial or ""]["data_digest"]
                place = places.get(one.proposal.number)
                found.append(Candidate(one, one.proposal.config, start.config, data, varied, place))
    if not found:
        objective = " and ".join(search.objective)
        what = (
            f"none of its {complete} complete proposals has measured {objective}"
            if complete
            else "no proposal of it is complete"
        )
        raise UserError(f"{KEY}: study {source} cannot be used, since {what}: leave it out")
    return found


def _rank(tried: list[EvaluatedProposal]) -> list[EvaluatedProposal]:
    """Sort the proposals that may be the best, the best first: by non-dominated rank, then by their losses."""
    measured = [(one.losses, one) for one in tried if one.losses is not None and one.eligible]
    ranks = pareto.ranks([losses for losses, _ in measured])
    order = sorted(zip(ranks, measured, strict=True), key=lambda pair: (pair[0], pair[1][0]))
    return [one for _, (_, one) in order]


def _choose(candidates: list[Candidate], study: str, start: Trial, search: Search) -> list[Prior]:
    """Return what a search takes of another study's proposals: the best, and all whose values may compare with its own.

    Searches on the same data come first, so that their best are tried.
    """
    sampler, found = Sampler(search, start.name, start.config), list[Prior]()
    fitting = [(one, settings) for one in candidates if (settings := sampler.adopt(one.config, one.varied))]
    fitting.sort(key=lambda pair: (pair[0].place is None, pair[0].start.data != start.config.data, pair[0].place or 0))
    first = list[dict[str, Any]]()
    for one, settings in fitting:
        is_first = one.place is not None and len(first) < BEST and settings not in first
        first += [settings] if is_first else []
        data = one.data if _is_own(one.config, start.config.with_leaves(settings).resolved()) else None
        if is_first or data:
            assert one.one.losses is not None
            number, excess = one.one.proposal.number, one.one.excess
            found.append(
                Prior(
                    study=study,
                    number=number,
                    settings=settings,
                    first=is_first,
                    losses=one.one.losses,
                    excess=excess,
                    data=data,
                )
            )
    return found


def _is_own(other: Config, own: Config) -> bool:
    """Whether a configuration is the own one, but for the seed and the name of the data set."""
    return {**other.leaves(), **dict.fromkeys(OWN)} == {**own.leaves(), **dict.fromkeys(OWN)}


def _describe(name: str, source: str, count: int, priors: list[Prior]) -> str:
    first, known = sum(one.first for one in priors), sum(one.data is not None for one in priors)
    return (
        f"{name} starts from study {source}: of its {count} complete proposals {first} are tried first, "
        f"{known} are known to the sampler if the data are the same, and {count - len(priors)} are left out"
    )
