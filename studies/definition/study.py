"""A study: the trials that should exist. Read from a TOML file, kept in the store, compared at every run.

    seeds = [0, 1]
    experiments = ["e1", "e2"]
    [all]                    # settings of every trial, by their dotted path
    training.steps = 400
    [network.ensemdiff]      # one table a network, data set or experiment: settings of those trials only
    network.width = 32
    [data.synthetic-large]
    data.kind = "large"
    [experiment.e1]
    training.optimiser = "adam"
    [variant.x0]             # if there are any, a trial is made for every one
    diffusion.target = "x0"
    [search]                 # besides, a search: studies/search.py
    space = "weighting"
    data = ["synthetic-large"]  # all data sets if it is left out
    [search.start]           # settings of the trial that it starts from
    data.held_out = 0.2

A trial is made for every network, data set, experiment, variant and seed; later tables win over earlier ones in the
order all, network, data, experiment, variant, and what the command line sets wins over all of them. `preset = "NAME"` in
a table stands for the network's published settings of that name (diffseg/presets.toml). On the command line, a setting
that only some of the networks have is theirs alone. Feed-forward networks have trials of E1 only, and trials that differ
only in settings that their experiment does not use are one trial. The trials that others need, the
members of a deep ensemble and the E3 trials of a fingerprint, are made with them. `baseline = "x0"` names the variant that
the others are compared with. A search starts from what would be a trial of E2, whether or not `experiments` lists any.
"""

import logging
import math
import tomllib
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from diffseg import config as configuration
from diffseg.config import FEED_FORWARD, NETWORKS, Config
from diffseg.config.leaves import flat
from diffseg.config.presets import expanded
from diffseg.errors import ConfigError, DefinitionError, UserError
from search_spaces import grid
from studies.definition import studyfile
from studies.search.search import Rungs, Search, check_start, parse, proposals
from studies.store.ledger import Ledger
from studies.store.names import check_trials
from studies.store.study_json import unusable

log = logging.getLogger(__name__)
SHIPPED = Path(__file__).parent.parent
EXPERIMENTS = ["e1", "e2", "e3", "e4"]
MOST_TRIALS = 50_000  # of which a definition has 100 MB
TABLES = ("network", "data", "experiment", "variant")  # of a study file; later ones win


def scored_images(held_out: object) -> str:
    """The images that a trial's metrics and errors are of, by its data.held_out."""
    return "held-out" if held_out else "test"


@dataclass(frozen=True)
class Trial:
    name: str
    config: Config
    rungs: Rungs | None = None  # where it is compared with others while it runs, in a search

    @cached_property
    def tree(self) -> dict:
        """The configuration as JSON."""
        return self.config.model_dump(mode="json")

    @property
    def scored_on(self) -> str:
        """The images that its metrics and errors are of: test, or held-out, training images that it is not trained on."""
        return scored_images(self.setting("data", "held_out"))

    @property
    def steps(self) -> int | None:
        """Training steps; None if the stored configuration does not say."""
        found = self.setting("training", "steps")
        return found if isinstance(found, int) and found > 0 else None

    def setting(self, section: str, key: str) -> Any:
        """A setting of the stored configuration, which other versions may have written; None if it has no such one."""
        found = self.tree.get(section)
        return found.get(key) if isinstance(found, dict) else None


class _Stored(Trial):
    """One whose configuration is checked when it is asked for: a store may hold ten thousand."""

    def __init__(self, name: str, tree: dict):
        self.__dict__.update(name=name, tree=tree)

    @cached_property
    def config(self) -> Config:
        """Raises DefinitionError if this version cannot use it."""
        try:
            return configuration.load(self.tree)
        except ConfigError as error:
            raise unusable(f"the study's definition of trial {self.name}", str(error)) from None


@dataclass(frozen=True)
class Study:
    name: str
    trials: tuple[Trial, ...]  # that should exist, but for those of searches
    roots: dict[str, str]  # of data sets, by name
    left_out: tuple[str, ...] = ()  # data sets of the file for which no root was given
    command: str = ""  # that made it, for the record
    search: Search | None = None
    starts: tuple[Trial, ...] = ()  # which searches start from, each one of its own
    variants: dict[str, str] = field(default_factory=dict)  # of trials by name, where the file has variants
    baseline: str | None = None  # the variant that the others are compared with

    def definition(self) -> dict:
        trials, starts = ({trial.name: trial.tree for trial in some} for some in (self.trials, self.starts))
        search = self.search and self.search.model_dump(mode="json")
        return {
            "study": self.name,
            "roots": self.roots,
            "command": self.command,
            "trials": trials,
            "search": search,
            "starts": starts,
            "variants": self.variants,
            "baseline": self.baseline,
        }

    @property
    def requested_trials(self) -> int:
        """How many trials there are to be, at most."""
        return len(self.trials) + len(self.starts) * self.requested_per_search

    @property
    def requested_per_search(self) -> int:
        """How many trials each search makes at most."""
        if self.search is None:
            return 0
        best, seeds = self.search.confirmed
        return self.search.budget + ((best + 1) * seeds if best else 0)

    def known_trials(self, ledger: Ledger) -> tuple[Trial, ...]:
        """The trials that are known by now: of searches, those that they have proposed."""
        found = {trial.name: trial for trial in self.trials}
        for proposal in proposals(ledger) if self.search else ():
            if proposal.config:
                found |= {trial_name(other): Trial(trial_name(other), other) for other in proposal.config.needs()}
                found[proposal.trial] = self.trial_of(proposal)
        return tuple(found.values())

    def trial_of(self, proposal) -> Trial:
        """The trial of a search's proposal. Trials on the test images are not pruned, nor is the first, the baseline."""
        if not proposal.config.data.held_out:
            return Trial(proposal.trial, proposal.config)
        reduction = self.search.pruning if proposal.number else 0
        return Trial(proposal.trial, proposal.config, Rungs(proposal.search, self.search.objective, reduction))


def shipped_studies() -> list[str]:
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def is_study_source(source: str) -> bool:
    """Whether a study can be read from it: a shipped one's name or a TOML file's path."""
    return source.endswith(".toml") or source in shipped_studies()


def data_settings(name: str) -> dict[str, Any]:
    """The settings that the shipped studies give a data set of this name; a folder's if they have none."""
    tables: dict[str, Any] = {}
    for study in ("quickstart", "paper"):
        tables |= tomllib.loads((SHIPPED / f"{study}.toml").read_text(encoding="utf-8"))["data"]
    return flat({"data": tables.get(name, {}).get("data", {"layout": "folder"})})


def read_study(
    source: str,
    roots: dict[str, str],
    settings: dict[str, Any],
    name: str | None = None,
    command: str = "",
    experiments: tuple[str, ...] = (),
    search: dict[str, Any] | None = None,
) -> Study:
    """The study of a shipped name or a TOML file, or only the given experiments of it.

    search: settings over those of its table [search]. Raises UserError if it cannot be read.
    """
    path = Path(source) if source.endswith(".toml") else SHIPPED / f"{source}.toml"
    try:
        tree = studyfile.read_tables(path)
    except FileNotFoundError:
        raise UserError(
            f"there is no study '{source[:200]}': give one of {', '.join(shipped_studies())}, or a TOML file of your own"
        ) from None
    if not isinstance(settings.get("network", ""), str):
        raise ConfigError(f"network: got {settings['network']!r}; allowed are {', '.join(NETWORKS)}")
    if experiments:
        tree |= {"experiments": [each for each in tree.get("experiments", EXPERIMENTS) if each in experiments]}
        if "e2" not in experiments:
            tree.pop("search", None)
    sets = _data_sets(tree, roots)
    if not sets:
        wanted = " ".join(f"--data {data}=ROOT" for data in tree.get("data", {"NAME": {}}))
        raise UserError(f"no data set of {path.stem} has a root: give one or more of {wanted}")
    left_out = tuple(data for data in tree.get("data", {}) if data not in sets)
    trials, found = tuple(_trials(tree, sets, settings, path)), _search(tree, search or {}, path)
    starts = tuple(_starts(tree["search"], found, tree, sets, settings, path)) if found else ()
    if not trials and not starts:
        raise UserError(
            f"with these options nothing is left of study {path.stem}: give another --experiment or network"
        )
    check_trials([trial.name for trial in trials], [start.name for start in starts])
    return Study(
        name or path.stem,
        trials,
        {k: roots[k] for k in sets if k in roots},
        left_out,
        command,
        found,
        starts,
        _variants(tree, sets, settings, path),
        _baseline(tree, path),
    )


def stored_study(name: str, definition: dict) -> Study:
    """The study that a store holds. Raises DefinitionError if its search cannot be used."""
    trials, starts = (
        tuple(_Stored(trial, config) for trial, config in definition.get(key, {}).items())
        for key in ("trials", "starts")
    )
    try:
        search = parse(definition["search"]) if definition.get("search") else None
    except ConfigError as error:
        raise unusable(f"the definition of study {name}", str(error)) from None
    roots, command, variants, baseline = (definition.get(key) for key in ("roots", "command", "variants", "baseline"))
    return Study(name, trials, roots or {}, (), command or "", search, starts, variants or {}, baseline)


def _search(tree: dict, options: dict[str, Any], path: Path) -> Search | None:
    if "search" not in tree:
        if options:
            raise UserError(
                f"study {path.stem} has no search, so it takes no --{min(options)}: `diffseg run search` is one, "
                "and a TOML file with a table [search] is another"
            )
        return None
    return parse({key: value for key, value in tree["search"].items() if key not in ("data", "start")} | options)


def _starts(table: dict, search: Search, tree: dict, sets: dict, settings: dict, path: Path):
    names = table.get("data", list(sets))
    if unknown := set(names) - {*sets, *tree.get("data", {})}:
        raise UserError(
            f"search.data of {path.name} names {', '.join(sorted(unknown))}: allowed are {', '.join(tree.get('data', {}))}"
        )
    chosen = {name: sets[name] for name in names if name in sets}
    own = flat(table.get("start", {})) | settings
    for trial in _trials(tree | {"experiments": ["e2"]}, chosen, own, path):
        if trial.config.experiment == "e2":  # not the trials that it needs
            check_start(trial.config, search)
            yield trial


def _variants(tree: dict, sets: dict, settings: dict, path: Path) -> dict[str, str]:
    """The variant of each trial; of several that make the same trial, the first."""
    found: dict[str, str] = {}
    for name, leaves in tree.get("variant", {}).items():
        for trial in _trials(tree | {"variant": {name: leaves}}, sets, settings, path):
            found.setdefault(trial.name, name)
    return found


def _baseline(tree: dict, path: Path) -> str | None:
    name, variants = tree.get("baseline"), tree.get("variant", {})
    if name is not None and name not in variants:
        raise UserError(f"{path.name} has no variant '{name}' for its baseline: allowed are {', '.join(variants)}")
    return name


def trial_name(config: Config) -> str:
    seeds = "+".join(map(str, config.inference.seeds or (config.seed,)))
    return f"{config.experiment}-{config.data.name}-{config.network.name}-s{seeds}-{config.digest[:8]}"


def describe_differences(old: Study, new: Study) -> list[str]:
    """What separates two definitions, one line a difference: settings whose values differ, then trials only one has."""
    before, after = ({t.name: t.config for t in (*each.trials, *each.starts)} for each in (old, new))
    gone, added = before.keys() - after.keys(), after.keys() - before.keys()
    if not gone and not added:
        return []
    lines, every = [], [[config.leaves() for config in configs.values()] for configs in (before, after)]
    keys = {key: None for leaves in (*every[0], *every[1]) for key in leaves}  # networks have settings of their own
    for key in keys:
        values = [sorted({repr(leaves[key]) for leaves in one if key in leaves}) for one in every]
        if values[0] != values[1]:
            lines.append(f"{key}: {', '.join(values[0]) or 'none'} → {', '.join(values[1]) or 'none'}")
    return [*lines, f"{len(gone)} trials no longer asked for, {len(added)} new ones"]


def check_against_stored(new: Study, definition: dict | None, extend: bool) -> Study:
    """The study to run, where the store holds `definition` under its name.

    Raises UserError with the differences if it is another study and it is not to be extended. A definition that cannot be
    used gives way, with a warning.
    """
    if definition is None:
        return new
    try:
        old = stored_study(new.name, definition)
        found = describe_differences(old, new)
    except DefinitionError as error:
        log.warning("%s", error)
        return new
    if changed := _changed_search(old, new):
        raise UserError(
            f"study {new.name} exists with another search ({changed}): give this one a name with --name NAME"
        )
    if extend:
        return extend_study(old, new)
    if found:
        shown = [*found[:8], f"{len(found) - 9} settings more", found[-1]] if len(found) > 10 else found
        raise UserError(
            f"study {new.name} exists with another definition ({'; '.join(shown)}): "
            "add to it with --extend, or give a new one a name with --name NAME"
        )
    return new


def _changed_search(old: Study, new: Study) -> str:
    return "; ".join(old.search.differences(new.search)) if old.search and new.search else ""


def extend_study(old: Study, new: Study) -> Study:
    """The new definition and the trials that only the old one has."""
    trials, starts = (
        tuple({trial.name: trial for trial in (*before, *after)}.values())
        for before, after in ((old.trials, new.trials), (old.starts, new.starts))
    )
    return replace(
        new,
        trials=trials,
        starts=starts,
        search=new.search or old.search,
        roots=old.roots | new.roots,
        variants=old.variants | new.variants,
    )


def _for_network(settings: dict, network: str, every: list[str]) -> dict:
    """The settings without those that only other networks of the study have, such as network.epochs of nnU-Net."""

    def has(name: str, key: str) -> bool:
        return name in NETWORKS and key.removeprefix("network.") in NETWORKS[name].model_fields

    return {
        key: value
        for key, value in settings.items()
        if not key.startswith("network.") or has(network, key) or not any(has(other, key) for other in every)
    }


def _debugged(tables: list[dict], settings: dict) -> list[dict]:
    """The tables and the settings; with preset=debug among the latter, each preset of the former is its debug twin."""
    if settings.get("preset") != "debug":
        return [*tables, settings]
    twins = [
        table | {"preset": str(table["preset"]).replace("published/", "debug/")} if "preset" in table else table
        for table in tables
    ]
    return [*twins, {key: value for key, value in settings.items() if key != "preset"}]


def _data_sets(tree: dict, roots: dict[str, str]) -> dict[str, dict]:
    """Settings of the data sets that can be had: synthetic ones, those with a root, and folders of the user's own."""
    listed = tree.get("data", {})
    synthetic = {name for name, leaves in listed.items() if flat(leaves).get("data.layout") == "synthetic"}
    own = {name: {"data": {"layout": "folder"}} for name in roots if name not in listed}
    return {name: leaves for name, leaves in {**listed, **own}.items() if name in roots or name in synthetic}


def _trials(tree: dict, sets: dict[str, dict], settings: dict[str, Any], path: Path):
    seen = set()
    axes = {
        "network": [settings["network"]] if "network" in settings else list(tree.get("network", {"ensemdiff": {}})),
        "data": list(sets),
        "experiment": tree.get("experiments", EXPERIMENTS),
        "variant": list(tree.get("variant", {"": {}})),
        "seed": tree.get("seeds", [0]),
    }
    if (count := math.prod(map(len, axes.values()))) > MOST_TRIALS:
        raise UserError(
            f"{path} describes {count:,} trials, but a study has at most {MOST_TRIALS:,}: give fewer seeds or variants"
        )
    for choice in grid(axes):
        data, experiment = choice["data"], choice["experiment"]
        leaves = {
            "network.name": choice["network"],
            "data.name": data,
            "experiment": experiment,
            "seed": choice["seed"],
        }
        if choice["network"] in FEED_FORWARD and experiment != "e1":
            continue
        tables = [sets[data] if axis == "data" else tree.get(axis, {}).get(choice[axis], {}) for axis in TABLES]
        tables = [flat(table) for table in (tree.get("all", {}), *tables)]
        try:
            for table in _debugged(tables, _for_network(settings, choice["network"], axes["network"])):
                leaves |= expanded(table, choice["network"])
            config = Config().with_leaves(leaves).resolved()
        except ConfigError as error:
            raise ConfigError(f"{error} ({path.name}, {experiment} of {data})") from None
        for part in (*config.needs(), config):
            if (name := trial_name(part)) not in seen:
                seen.add(name)
                yield Trial(name, part)
