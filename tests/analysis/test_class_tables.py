"""Trials of several classes: the whole is read once, and single classes are read apart."""

import numpy as np
import pandas as pd
import pytest
from several import CLASSES, split_classes, with_classes, write_study
from test_measurements import GROUPS, calibration_of, iou_of, pooled_ece
from test_report import configs, values

from analysis import tables, uncertainty, uncertainty_charts
from analysis.comparison import against_e1, compare_configurations
from analysis.configurations import name_configurations
from analysis.figures import CHARTS
from analysis.findings import check_findings
from analysis.noise_levels import errors_over_t
from analysis.report import write_report
from studies.store.tables import SCHEMAS

NAMES = tuple(CLASSES)


def shifted(table, row, number):
    """A row of a class, whose numbers differ from those of all classes and from those of other classes."""
    numbers = [key for key, value in row.items() if isinstance(value, float) and key not in ("t", "log_snr", "weight")]
    return row | {key: row[key] * (0.3 + 0.4 * number) for key in numbers}


def plain(config, rows):
    """Rows as earlier versions wrote them: without the column `class`."""
    return rows


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same trials of a single class, and of two with the same numbers of all classes."""
    path = tmp_path_factory.mktemp("pair")
    one = write_study(path / "one", configs(), plain)
    two = [with_classes(config) for config in configs()]
    several = write_study(path / "several", two, lambda config, rows: split_classes(rows, shifted))
    return tables.load([one]), tables.load([several])


OF_CLASSES = {"reliability", "ensembles", "error_maps", "forward_process"}  # draw classes apart
WHOLE = {
    "table1": lambda found: found.table1(),
    "best": lambda found: found.best(),
    "findings": check_findings,
    "fingerprints": lambda found: found.fingerprints(),
    "images": lambda found: found.images,
    "timesteps": lambda found: found.timesteps,
    "frame": lambda found: found.frame("images", ["image", "metric", "value"]),
    "errors": lambda found: errors_over_t(found, ["e2", "e3"], "mask_error"),
    "aurc": uncertainty.aurc,
    "left out": uncertainty.count_left_out,
    "ged": uncertainty.ged_by_samples,
    "image calibration": uncertainty.image_calibration,
    "error by variance": uncertainty.error_by_variance,
}


@pytest.mark.parametrize("name", WHOLE)
def test_tables_count_all_classes_once(pair, name):
    one, several = (WHOLE[name](found) for found in pair)
    assert len(one) or name == "left out"
    columns = sorted(one.columns)
    assert set(columns) <= set(several.columns)
    first, second = (frame[columns].sort_values(columns, ignore_index=True).astype(object) for frame in (one, several))
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.parametrize("draw", [draw for draw in CHARTS if draw.__name__ not in OF_CLASSES], ids=lambda d: d.__name__)
def test_charts_count_all_classes_once(pair, draw):
    one, several = (draw(found) for found in pair)
    assert (one is None) == (several is None)
    if one is not None:
        texts = [sorted(map(str, values(c))) for c in (one, several)]
        assert texts[0] == texts[1]


def calibrated(config, rows):
    """Two classes of different calibration; `ece` is the mean over them."""
    lean = 0.7 if config.experiment == "e2" else 1.0
    rows["images"] = [
        {"image": f"{k}", "group": GROUPS[k], "metric": "iou", "value": value}
        for k, value in enumerate(iou_of(config.experiment, config.seed))
    ]
    rows["calibration"] = calibration_of(config.experiment, config.seed)
    rows = split_classes(rows, lambda table, row, number: row | _changed(table, row, number, lean))
    of_each = [pooled_ece([row for row in rows["calibration"] if row["class"] == name]) for name in NAMES]
    rows["trials"][0] |= {"ece": np.mean(of_each), "iou": iou_of(config.experiment, config.seed).mean(), "dice": None}
    return rows


def _changed(table, row, number, lean):
    if table == "calibration":  # the first class leans to the other side
        gap = (row["confidence"] - row["accuracy"]) * (-2 if number == 0 else 1)
        return {"accuracy": row["confidence"] - gap, "count": row["count"] * (1 + number)}
    if row.get("metric") == "iou":
        return {"value": row["value"] + (0.1 if number == 0 else -0.1) * lean}
    return {}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    chosen = [
        with_classes(config.with_leaves({"data.name": "slices"}).resolved())
        for config in configs(("e1", "e2"), ("x0",))
        if config.data.name == "big"
    ]
    return tables.load([write_study(tmp_path_factory.mktemp("store"), chosen, calibrated)])


def test_the_ece_is_the_mean_over_the_classes(found):
    for experiment in ("e1", "e2"):
        trials = found.trials[found.trials["experiment"] == experiment]
        whole = found.measurements.sample(trials, "ece")
        of_each = [found.measurements.sample(trials, "ece", name) for name in NAMES]
        assert whole.estimate.mean == pytest.approx(trials["ece"].mean(), abs=1e-12)
        assert whole.estimate.mean == pytest.approx(np.mean([one.estimate.mean for one in of_each]), abs=1e-12)
        assert of_each[0].estimate.mean > 1.5 * of_each[1].estimate.mean
        assert (whole.images, whole.units) == (len(GROUPS), len(set(GROUPS)))


def test_metrics_of_a_class_are_its_own(found):
    trials = found.trials[found.trials["experiment"] == "e2"]
    whole, organ, lesion = (found.measurements.sample(trials, "iou", name) for name in ("all", *NAMES))
    assert organ.estimate.mean == pytest.approx(whole.estimate.mean + 0.07)
    assert lesion.estimate.mean == pytest.approx(whole.estimate.mean - 0.07)
    assert organ.units == whole.units == len(set(GROUPS))
    assert found.measurements.sample(trials, "iou", "other") is None


def test_the_reliability_is_drawn_for_each_class(found):
    rows = pd.DataFrame(values(uncertainty_charts.reliability(found)))
    assert list(rows["class"].unique()) == list(NAMES)
    assert (rows.loc[rows["class"] == "organ", "confidence"] < rows.loc[rows["class"] == "organ", "accuracy"]).all()
    assert (rows.loc[rows["class"] == "lesion", "confidence"] > rows.loc[rows["class"] == "lesion", "accuracy"]).all()


def test_the_classes_are_those_of_the_configuration(pair, found):
    assert pair[0].classes == {}
    assert pair[1].classes == {"big": list(NAMES), "small": list(NAMES)}
    assert found.classes == {"slices": list(NAMES)}


def named(config, rows):
    """Rows of a single class, as they are written now."""
    return {
        table: [row | {"class": "all"} if "class" in SCHEMAS[table].names else row for row in own]
        for table, own in rows.items()
    }


@pytest.mark.slow
def test_ledgers_of_several_versions_are_read_together(tmp_path):
    """One study without the column `class`, one with `all` in it, one of two classes."""
    chosen = configs(("e1", "e2", "e3"), ("x0",))
    ledgers = [
        write_study(tmp_path, chosen, plain, "old"),
        write_study(tmp_path, chosen, named, "new"),
        write_study(
            tmp_path, [with_classes(c) for c in chosen], lambda _, rows: split_classes(rows, shifted), "several"
        ),
    ]
    together = tables.load(ledgers)
    for frame in (together.images, together.timesteps):
        assert frame.groupby("study").size().nunique() == 1
    assert set(together.calibration["class"]) == {"all", *NAMES}
    assert len(against_e1(together.table1(), together)) == 3 * 2
    assert write_report(ledgers, tmp_path / "report.html").exists()
    assert len(compare_configurations(together, name_configurations(ledgers)))
