"""Reading a study from a shipped name or a TOML file."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from diffseg.config import NETWORKS
from diffseg.config.leaves import flat
from diffseg.errors import ConfigError, UserError
from diffseg.suggestions import did_you_mean, did_you_mean_path
from search_spaces import SpaceError
from search_spaces.function import REFERENCE
from studies.definition import studyfile
from studies.definition.expansion import EXPERIMENTS, Description, available_data_sets
from studies.definition.shipped import shipped_studies, study_path
from studies.definition.study import Study
from studies.definition.trial import Trial
from studies.search.search import Search, check_start, describe_outside, parse
from studies.store.names import check_trials

log = logging.getLogger(__name__)


def read_study(
    source: str,
    roots: dict[str, str],
    settings: dict[str, Any],
    name: str | None = None,
    command: str = "",
    experiments: tuple[str, ...] = (),
    search: dict[str, Any] | None = None,
) -> Study:
    """Read the study of a shipped name or a TOML file.

    Args:
        source: The shipped study's name, or the path of a TOML file.
        roots: Data set name to root folder or URI.
        settings: Settings of the command line by their dotted paths, which override those of the file.
        name: The study's name; by default that of the file.
        command: The command line, for the record.
        experiments: The experiments to keep; all if empty.
        search: Settings that override those of the file's table [search].

    Raises:
        UserError: The study cannot be read.
    """
    path, tables = study_path(source), _read_tables(source, experiments)
    if not isinstance(settings.get("network", ""), str):
        raise ConfigError(f"network: got {settings['network']!r}; allowed are {', '.join(NETWORKS)}")
    data_sets = available_data_sets(tables, roots)
    if not data_sets:
        wanted = " ".join(f"--data {data}=ROOT" for data in tables.get("data", {"NAME": {}}))
        raise UserError(f"no data set of {path.stem} has a root: give one or more of {wanted}")
    description = Description(path, tables, data_sets, settings, roots)
    try:
        study = build_study(description, name or path.stem, command, search)
    except SpaceError as error:
        given = error.key.split(".")[1] in (search or {})  # on the command line
        raise ConfigError(f"{'' if given else studyfile.locate(path, error.key)}{error}") from None
    _check_command_line(study, settings)
    return study


def _check_command_line(study: Study, settings: dict[str, Any]) -> None:
    """Raise ConfigError for a setting of the command line that a search sets itself; warn if other trials have it."""
    if not study.search or not study.starts:
        return
    for path in settings:
        if key := study.search.find_setter({"network": "network.name"}.get(path, path)):
            if not study.trials:
                raise ConfigError(
                    f"{path} is given on the command line, but {key} sets it itself: leave it out, or change it in the study file"
                )
            log.warning("%s does not apply to the search, since %s sets it itself", path, key)


def build_study(description: Description, name: str, command: str = "", search: dict[str, Any] | None = None) -> Study:
    """Build the study of a description.

    Args:
        description: What its trials are expanded from.
        name: The study's name.
        command: The command line, for the record.
        search: Settings that override those of the table [search].

    Raises:
        SpaceError: The search cannot vary what its space says.
        UserError: There is nothing to run, or a setting cannot be used.
    """
    trials = tuple(description.trials())
    found = _search(description, search or {})
    starts = tuple(_starts(description, found)) if found else ()
    if not trials and not starts:
        raise UserError(
            f"with these options nothing is left of study {description.path.stem}: give another --experiment or network"
        )
    check_trials([trial.name for trial in trials], [start.name for start in starts])
    listed, roots = description.tables.get("data", {}), description.roots
    return Study(
        name,
        trials,
        {data: roots[data] for data in description.data_sets if data in roots},
        tuple(data for data in listed if data not in description.data_sets),
        command,
        found,
        starts,
        _variants(description),
        _baseline(description),
    )


def _read_tables(source: str, experiments: tuple[str, ...]) -> dict[str, Any]:
    """Return the tables of a study file, or only the parts that some experiments need."""
    try:
        tables = studyfile.read_tables(study_path(source))
    except FileNotFoundError:
        hint = (
            did_you_mean_path(study_path(source))
            if source.endswith(".toml")
            else did_you_mean(source, shipped_studies())
        )
        raise UserError(
            f"there is no study '{source[:200]}'{hint}: give one of {', '.join(shipped_studies())}, or a TOML file of your own, "
            "which `diffseg init` writes"
        ) from None
    if experiments:
        tables["experiments"] = [each for each in tables.get("experiments", EXPERIMENTS) if each in experiments]
        if "e2" not in experiments:
            tables.pop("search", None)
    return tables


def _search(description: Description, options: dict[str, Any]) -> Search | None:
    """Return the file's search with the command line's options. Raises UserError for options without a search."""
    if "search" not in description.tables:
        if options:
            option = min(options).replace("_", "-")
            raise UserError(
                f"study {description.path.stem} has no search, so it takes no --{option}: `diffseg run search` is "
                "one, and a TOML file with a table [search] is another"
            )
        return None
    table = {key: value for key, value in description.tables["search"].items() if key not in ("data", "start")}
    space = table.get("space")
    if isinstance(space, str) and REFERENCE.fullmatch(space):
        table["space"] = str(description.path.parent / space)  # a file beside the study
    if "stop" in options and isinstance(table.get("stop"), dict):
        options = options | {"stop": table["stop"] | options["stop"]}
    return parse(table | options)


def _starts(description: Description, search: Search) -> Iterator[Trial]:
    """Yield the E2 trials that searches start from. Raises UserError for an unknown data set."""
    table, listed = description.tables["search"], description.tables.get("data", {})
    names = table.get("data", list(description.data_sets))
    if unknown := set(names) - {*description.data_sets, *listed}:
        raise UserError(
            f"search.data of {description.path.name} names {', '.join(sorted(unknown))}: allowed are {', '.join(listed)}"
            f"{did_you_mean(min(unknown), listed)}"
        )
    chosen = {name: description.data_sets[name] for name in names if name in description.data_sets}
    started = replace(
        description,
        tables=description.tables | {"experiments": ["e2"]},
        data_sets=chosen,
        start=flat(table.get("start", {})),
        keeps_fingerprint=search.may_use_fingerprint,  # the start itself need not use one
    )
    for trial in started.trials():
        if trial.config.experiment == "e2":  # not the trials that it needs
            check_start(trial.config, search)
            for sentence in describe_outside(trial.config, search):
                log.warning("%s", sentence)
            yield trial


def _variants(description: Description) -> dict[str, str]:
    """Return each trial's variant; the first one if several make the same trial."""
    found: dict[str, str] = {}
    for name, leaves in description.tables.get("variant", {}).items():
        for trial in description.with_tables(variant={name: leaves}).trials():
            found.setdefault(trial.name, name)
    return found


def _baseline(description: Description) -> str | None:
    """Return the name of the baseline variant. Raises UserError if there is no such variant."""
    name, variants = description.tables.get("baseline"), description.tables.get("variant", {})
    if name is not None and name not in variants:
        raise UserError(
            f"{description.path.name} has no variant '{name}' for its baseline{did_you_mean(name, variants)}: "
            f"allowed are {', '.join(variants)}"
        )
    return name
