"""The names of series: trials that differ in their seed only are called by experiment, network, variant and study."""

import json
import zlib
from typing import Any

import numpy as np
import pandas as pd

from studies.store.ledger import Ledger

EXPERIMENTS = {"e1": "E1 feed-forward", "e2": "E2 diffusion", "e3": "E3 mask prediction", "e4": "E4 image generation"}
NOT_A_CHOICE = ("config_seed", "config_experiment", "config_data_", "config_network_name", "config_inference_")
IDENTITY = ("config_seed", "config_experiment", "config_data_name", "config_network_name")
BASELINES = ("config_inference_seeds", "config_inference_augment", "config_inference_merge")  # E1's for uncertainty


def name_series(trials: pd.DataFrame, ledgers: list[Ledger]) -> pd.DataFrame:
    """Return the trials with two more columns, `variant` and `series`.

    `variant` is the name that the study file gives, or in words the settings in which the trials of one experiment, data set
    and network differ ("" if they do not). Settings of data and prediction, which often follow from others, are named only
    where nothing else tells trials apart. `series` names the experiment, the variant and, if there are several, the network
    and the study.
    """
    trials = trials.copy()
    trials["variant"] = _tell_apart(trials, _prefer_given_names(trials, ledgers, _describe_settings(trials)))
    several = trials["network"].nunique() > 1
    network = ", " + trials["network"] if several else ""
    study = ", " + trials["study"] if trials["study"].nunique() > 1 else ""
    variant = trials["variant"].map(lambda text: f", {text}" if text else "")
    trials["series"] = trials["experiment"].map(EXPERIMENTS) + network + variant + study
    return trials


def varying_columns(trials: pd.DataFrame) -> list[str]:
    """Return the columns of settings in which trials differ, without those that name a trial."""
    return _differing(_number_values(trials, _chosen_columns(trials)))


def _chosen_columns(trials: pd.DataFrame) -> list[str]:
    """Return the columns of settings, without those that name a trial."""
    return [c for c in trials.columns if c in BASELINES or (c.startswith("config_") and not c.startswith(NOT_A_CHOICE))]


def _number_values(trials: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return for each value the number of it among those of its column, by which trials are compared fast."""
    numbers = {column: pd.factorize(trials[column].astype(str))[0] for column in columns}
    return pd.DataFrame(numbers, index=trials.index)


def _differing(numbers: pd.DataFrame) -> list[str]:
    """Return the columns in which rows of `_number_values` differ."""
    values = numbers.to_numpy()
    return list(numbers.columns[(values != values[:1]).any(0)])


def _describe_settings(trials: pd.DataFrame) -> pd.Series:
    """Return in words, for each trial, the settings that vary among the trials of its experiment, data set and network."""
    labels = pd.Series("", index=trials.index)
    numbers = _number_values(trials, _chosen_columns(trials))
    for _, group in numbers.groupby([trials[column] for column in ("experiment", "dataset", "network")]):
        labels[group.index] = _list_settings(trials.loc[group.index, _differing(group)])
    return labels


def _list_settings(chosen: pd.DataFrame) -> list[str]:
    """Return for each row its settings in words, without those that it lacks."""
    return [
        ", ".join(describe_setting(column, value) for column, value in row.items() if not pd.isna(value))
        for row in chosen.astype(object).to_dict("records")
    ]


def _prefer_given_names(trials: pd.DataFrame, ledgers: list[Ledger], words: pd.Series) -> pd.Series:
    """Return the variants' names of the studies that give any, followed by the words where several trials share a name."""
    given = {ledger.study: (ledger.definition() or {}).get("variants") or {} for ledger in ledgers}
    labels = [given[study].get(trial, "") for study, trial in zip(trials["study"], trials["trial"], strict=True)]
    names = pd.Series(labels, index=trials.index, dtype=object)
    key = [trials[column] for column in ("study", "experiment", "dataset", "network")]
    alone = (names.groupby(key).transform("nunique") == 1) & (words == "")  # such as E3, which several variants need
    enough = words.groupby([*key, names]).transform("nunique") == 1
    return words.where((names == "") | alone, names.where(enough, names + ", " + words))


def _tell_apart(trials: pd.DataFrame, labels: pd.Series) -> pd.Series:
    """Return the labels, followed by all other settings in which trials of one label differ."""
    found = labels.copy()
    numbers = _number_values(trials, [c for c in trials.columns if c.startswith("config_") and c not in IDENTITY])
    key = [trials[column] for column in ("study", "experiment", "dataset", "network")]
    for _, group in numbers.groupby([*key, labels], sort=False):
        if differing := _differing(group):
            words = _list_settings(trials.loc[group.index, differing])
            pairs = zip(labels[group.index], words, strict=True)
            found[group.index] = [", ".join(filter(None, pair)) for pair in pairs]
    return found


def describe_setting(column: str, value: Any) -> str:
    """Return the value of a `config_` column in words, such as "ε" or "schedule cosine"."""
    name = column.removeprefix("config_").partition("_")[2].replace("_", " ")
    if column == "config_diffusion_target":
        return {"epsilon": "ε"}.get(value, str(value))
    if column == "config_inference_seeds":
        count = len(json.loads(value))
        return f"deep ensemble of {count}" if count else "one network"
    if column == "config_inference_augment":
        return {"none": "no test-time augmentation", "symmetries": "test-time augmentation"}[value]
    if column == "config_diffusion_profile":  # knots are too many to name
        return "no profile" if value == "[]" else f"profile {zlib.crc32(value.encode()):08x}"
    if isinstance(value, bool | np.bool_):
        return name if value else f"no {name}"
    if isinstance(value, float):
        return f"{name} {value:g}"
    if column.startswith(("config_data_", "config_inference_")):
        return f"{name} {value}"
    return f"{name} {value}" if name in ("schedule", "weighting", "density", "loss", "ends") else str(value)
