"""The study that a command line asks for, and its ledger in the store."""

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffseg.errors import UserError
from diffseg.suggestions import did_you_mean

if TYPE_CHECKING:
    from studies.definition.study import Study
    from studies.store.ledger import Ledger


@dataclass(frozen=True)
class StudyRequest:
    """A study as the command line of `run` or `plan` describes it."""

    source: str  # a shipped study's name, a TOML file's path, or the name of a study in the store
    store: str
    settings: tuple[str, ...] = ()  # KEY=VALUE
    roots: dict[str, str] = field(default_factory=dict)  # of data sets, by name
    name: str | None = None  # in the store; None: that of the source
    experiments: tuple[str, ...] = ()  # all if empty
    search: dict[str, Any] = field(default_factory=dict)  # options of a search that were given


def requested_study(request: StudyRequest, extend: bool) -> "tuple[Study, Ledger]":
    """Read the requested study, check it against the one of that name in the store, and return it with its ledger.

    Raises UserError if the store has another definition under that name and the request is not to extend it.
    """
    from studies.definition.changes import check_against_stored
    from studies.definition.reading import read_study
    from studies.definition.shipped import is_study_source
    from studies.store.ledger import Ledger

    leaves = parse_settings(request.settings)
    if not is_study_source(request.source):
        return _unchanged_study(request)
    ledger = Ledger(request.store, request.name or Path(request.source).stem)
    definition = ledger.usable_definition()
    roots = merge_roots(ledger, definition, request.roots)
    search = dict(request.search)
    if "objective" in search:
        search["objective"] = search["objective"].split(",")
    if "stop" in search:
        search["stop"] = parse_settings(search["stop"])
    study = read_study(request.source, roots, leaves, request.name, command_line(), request.experiments, search)
    for name in request.roots:
        if hint := did_you_mean(name, study.left_out):
            click.echo(f"{name} is taken as a data set of your own{hint}", err=True)
    study = check_against_stored(study, definition, extend)
    if study.search and study.search.warm_start:
        from studies.search.warm_start import take_priors  # imports Optuna

        study = take_priors(study, ledger, lambda sentence: click.echo(sentence, err=True))
    return study, ledger


def _unchanged_study(request: StudyRequest) -> "tuple[Study, Ledger]":
    """Return a study that only the store has. Raises UserError if the request would change it."""
    study, ledger = open_study(request.source, request.store)
    if request.settings or request.roots or request.name or request.experiments or request.search:
        raise UserError(
            f"{request.source} is a study in the store and resumes unchanged: "
            "leave out --data, --name, --experiment, options of searches and settings, or give its TOML file"
        )
    return study, ledger


def open_study(study: str, store: str) -> "tuple[Study, Ledger]":
    """Return a study of the store with its ledger. Raises UserError if there is none of this name."""
    from studies.definition.study import stored_study
    from studies.store.ledger import open_ledger

    ledger = open_ledger(store, study)
    return stored_study(study, ledger.definition() or {}), ledger


def merge_roots(ledger: "Ledger", definition: dict[str, Any] | None, roots: dict[str, str]) -> dict[str, str]:
    """Return the roots of data sets in the stored definition, overridden by the given ones.

    The root of a data set is no part of a trial's configuration: trials that have ended do not run again for another
    root. A warning says so.
    """
    before: dict[str, str] = (definition or {}).get("roots", {})
    for name in sorted(name for name, root in roots.items() if before.get(name, root) != root):
        if any(row["dataset"] == name for row in ledger.last_rows(["dataset"])):
            click.echo(
                f"warning: data set {name} of study {ledger.study} was at {before[name]} and is now at {roots[name]}; its "
                "results are kept: if these are other images, give the study another --name or --store",
                err=True,
            )
    return before | roots


def parse_settings(settings: tuple[str, ...]) -> dict[str, Any]:
    """Parse KEY=VALUE into values by their dotted path. Raises ConfigError if one is written otherwise."""
    from diffseg.config import parse_leaf  # pydantic takes long to import

    return dict(parse_leaf(text) for text in settings)


def command_line() -> str:
    """Return the command line of this process, for the record."""
    return shlex.join(["diffseg", *sys.argv[1:]])
