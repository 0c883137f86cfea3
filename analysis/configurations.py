"""The names of configurations, and those that are the baselines which others are compared with."""

from dataclasses import dataclass, replace

import pandas as pd

from analysis.frames import PLACE
from diffseg.errors import UserError
from diffseg.suggestions import suggest
from studies.search.proposals import read_proposals
from studies.store.ledger import Ledger


@dataclass(frozen=True)
class ConfigurationNames:
    """The names of configurations by trial, and the trials of the baselines."""

    labels: dict[str, str]
    baselines: set[str]


def name_configurations(ledgers: list[Ledger]) -> ConfigurationNames:
    """Return the names of the studies' variants and of the searches' proposals.

    The baseline of a study is the variant that it names as such, that of a search its first proposal.
    """
    labels: dict[str, str] = {}
    baselines: set[str] = set()
    for ledger in ledgers:
        definition = ledger.definition() or {}
        variants, found = definition.get("variants") or {}, [one for one in read_proposals(ledger) if one.trial]
        labels |= variants | {one.trial: f"{one.number}: {one.label}" for one in found}
        baselines |= {trial for trial, variant in variants.items() if variant == definition.get("baseline")}
        baselines |= {one.trial for one in found if one.number == 0 and one.trial}
    return ConfigurationNames(labels, baselines)


def list_e1(trials: pd.DataFrame, ledgers: list[Ledger]) -> set[str]:
    """Return the trials of E1 of each data set and network; of several configurations, those of the study's first one."""
    listed = [trial for ledger in ledgers for trial in (ledger.definition() or {}).get("trials", {})]
    order, found = {trial: place for place, trial in enumerate(listed)}, set[str]()
    for _, alike in trials[trials["experiment"] == "e1"].groupby(["dataset", "network"], sort=False):
        first = min(alike["trial"], key=lambda trial: order.get(trial, len(order)))
        series = alike.loc[alike["trial"] == first, "series"].iloc[0]
        found |= set(alike.loc[alike["series"] == series, "trial"])
    return found


def select_baseline(trials: pd.DataFrame, named: ConfigurationNames, baseline: str) -> ConfigurationNames:
    """Return the names with another baseline: a configuration's name, a variant, a series, or an experiment such as "e1".

    Raises UserError if no trial of E1 or E2 has this name, or if several configurations of one data set and network do.
    """
    trials = trials[trials["experiment"].isin(["e1", "e2"])]
    columns = [trials["trial"].map(named.labels), trials["variant"], trials["series"], trials["experiment"]]
    fits = pd.concat([column == baseline for column in columns], axis=1).any(axis=1)
    if not baseline or not fits.any():
        names = dict.fromkeys(name for column in columns for name in column.dropna() if name)
        raise UserError(f"there is no configuration '{baseline}' to compare with: {suggest(baseline, names)}")
    chosen = trials[fits]
    if (chosen.groupby([*PLACE, "experiment"])["series"].nunique() > 1).any():
        names = dict.fromkeys(chosen["series"])
        raise UserError(f"'{baseline}' is the name of several configurations: give one of {'; '.join(names)}")
    return replace(named, baselines=set(chosen["trial"]))
