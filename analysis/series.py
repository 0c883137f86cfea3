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
    columns = [
        c for c in trials.columns if c in BASELINES or (c.startswith("config_") and not c.startswith(NOT_A_CHOICE))
    ]
    return [c for c in columns if trials[c].astype(str).nunique() > 1]


def _describe_settings(trials: pd.DataFrame) -> pd.Series:
    """Return in words, for each trial, the settings that vary among the trials of its experiment, data set and network."""
    labels = pd.Series("", index=trials.index)
    for _, group in trials.groupby(["experiment", "dataset", "network"]):
        columns = varying_columns(group)
        for index, row in group.iterrows():
            labels[index] = ", ".join(
                describe_setting(column, row[column]) for column in columns if not pd.isna(row[column])
            )
    return labels


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
    labels, columns = labels.copy(), [c for c in trials.columns if c.startswith("config_") and c not in IDENTITY]
    key = [trials[column] for column in ("study", "experiment", "dataset", "network")]
    for _, group in trials.groupby([*key, labels], sort=False):
        differing = [c for c in columns if group[c].astype(str).nunique() > 1]
        for index, row in group.iterrows() if differing else ():
            words = [describe_setting(column, row[column]) for column in differing if not pd.isna(row[column])]
            labels[index] = ", ".join([labels[index], *words] if labels[index] else words)
    return labels


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
