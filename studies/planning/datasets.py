"""Check data sets before a study, a plan or a fingerprint begins, with the error that their trials would fail with."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from diffseg.config import Config
from studies.definition.trial import Trial
from studies.store.places import cache_folder

if TYPE_CHECKING:
    from diffseg.data import Listing

log = logging.getLogger(__name__)
DECODING = {"size", "fit", "scale", "normalise", "test_crops", "augment"}  # settings that no file is refused for


def check_datasets(trials: Iterable[Trial], roots: dict[str, str], store: str, elsewhere: bool = False) -> None:
    """Check names, splits, headers and masks of the trials' data sets, without decoding images, each data set once.

    Data sets behind a URI are left to the trials, since they would have to be copied first. Warns if a search compares
    segmentations on few held-out images, and if too few are left to choose a threshold by.

    Args:
        trials: Those that are still to run.
        roots: The folder or URI of each data set, by its name.
        store: Its cache is used. Headers and masks of a data set in the cache are not read again.
        elsewhere: Trials run on other machines: roots that this machine lacks are left to the trials.

    Raises:
        DataError: A data set cannot be used.
    """
    from diffseg import data  # imports torch, which takes long

    checked: dict[str, data.Listing | None] = {}
    asked = set()  # what was looked for in which data
    for trial in trials:
        tree = trial.tree["data"]
        root = roots.get(tree["name"])
        key = json.dumps([root, {name: value for name, value in tree.items() if name not in DECODING}], sort_keys=True)
        if tree["layout"] == "synthetic" or "://" in (root or ""):
            continue
        if key not in checked:
            missing = elsewhere and root and not Path(root).exists()
            path = Path(root) if root else None
            checked[key] = None if missing else data.examine(trial.config.data, path, cache_folder(store))
        found = checked[key]
        risk = trial.config.inference.risk
        compares = trial.tree.get("experiment") == "e2" and trial.scored_on == "held-out"  # E3 measures errors there
        for applies, describe, question in (
            (risk.metric != "none", _describe_few_calibrating, (key, risk.level)),
            (compares, _describe_few_held_out, key),
        ):
            if not found or not applies or question in asked:
                continue
            asked.add(question)
            if sentence := describe(trial.config, found):
                log.warning("data set %s: %s", tree["name"], sentence)


def _describe_few_held_out(config: Config, found: "Listing") -> str | None:
    """Return a sentence if few images are held out to compare trials on."""
    from diffseg import data

    return data.describe_few_held_out(config.data, found.records)


def _describe_few_calibrating(config: Config, found: "Listing") -> str | None:
    """Return a sentence if inference.risk is likely to have too few patients to choose a threshold by."""
    from diffseg import data
    from diffseg.evaluation.risk import describe_few_units

    return describe_few_units(data.count_calibration_units(config.data, found.records), config)
