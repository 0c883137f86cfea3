"""Refuse data sets before a study, a plan or a fingerprint is begun, with the sentence that its trials would fail with."""

import json
from collections.abc import Iterable
from pathlib import Path

from studies.definition.trial import Trial
from studies.store.places import cache_folder

DECODING = {"size", "fit", "scale", "normalise", "test_crops", "augment"}  # settings that no file is refused for


def examine(trials: Iterable[Trial], roots: dict[str, str], store: str, elsewhere: bool = False) -> None:
    """Look at the data sets of trials as far as that needs no decoding. Raises DataError for the first that cannot be used.

    roots: of data sets, by name. elsewhere: trials run on other machines, which may have what this one lacks. What lies
    behind a URI would have to be copied first, so only the trials look at it.
    """
    from diffseg import data  # torch takes long to import

    seen = set()
    for trial in trials:
        tree = trial.tree["data"]
        root = roots.get(tree["name"])
        key = json.dumps([root, {name: value for name, value in tree.items() if name not in DECODING}], sort_keys=True)
        if key in seen or tree["layout"] == "synthetic" or "://" in (root or ""):
            continue
        seen.add(key)
        if not (elsewhere and root and not Path(root).exists()):
            data.examine(trial.config.data, root and Path(root), cache_folder(store))
