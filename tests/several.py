"""Ledgers of masks of several classes, made of those of a single class."""

from collections.abc import Callable
from pathlib import Path

from test_report import attempt

from diffseg.config import Config
from diffseg.rows import Row
from studies.definition.study import Study
from studies.definition.trial import Trial
from studies.store.ledger import Ledger
from studies.store.tables import SCHEMAS

CLASSES = {"organ": [1], "lesion": [2]}
Rows = dict[str, list[Row]]


def with_classes(config: Config, classes: dict = CLASSES, **leaves) -> Config:
    """Return the configuration with classes."""
    named = {"data.classes": classes} | {name.replace("__", "."): value for name, value in leaves.items()}
    return config.with_leaves(named).resolved()


def split_classes(rows: Rows, change: Callable[[str, Row, int], Row], names=tuple(CLASSES)) -> Rows:
    """Return an attempt's rows of a single class as those of several.

    Rows of `all` stay as they are. Those of a class are `change(table, row, its number)`. Calibration and pictures of masks
    are of classes alone, as the evaluation writes them.
    """
    found: Rows = {}
    for table, own in rows.items():
        if "class" not in SCHEMAS[table].names:
            found[table] = own
            continue
        alone = [table == "calibration" or row.get("kind") in ("truth", "mean", "sd") for row in own]
        whole = [row | {"class": "all"} for row, single in zip(own, alone, strict=True) if not single]
        of_classes = [
            change(table, row, number) | {"class": name}
            for row in own
            if row.get("kind") != "image"
            for number, name in enumerate(names)
        ]
        found[table] = whole + of_classes
    return found


def write_study(path: Path, configs: list[Config], edit: Callable[[Config, Rows], Rows], name: str = "study") -> Ledger:
    """Write a study of complete trials; edit: changes an attempt's rows before they are written."""
    ledger, trials, variants = Ledger(str(path), name), [], {}
    for number, config in enumerate(configs):
        trials.append(Trial(f"{config.experiment}-{number:03d}", config))  # the same order whatever the classes are
        variants[trials[-1].name] = config.experiment
        rows = attempt(config, trials[-1].name)
        rows["trials"][0] |= {"study": name}
        ledger.write(trials[-1].name, 1, edit(config, rows))
    ledger.define(Study(name, tuple(trials), {}, variants=variants, baseline="e1").definition())
    return ledger
