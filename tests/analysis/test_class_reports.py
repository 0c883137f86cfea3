"""Single classes and whole volumes in tables, charts, the report and `compare`."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from rich.console import Console
from several import CLASSES, split_classes, with_classes, write_study
from test_report import T, configs, values

from analysis import class_charts, tables, uncertainty
from analysis.class_tables import count_confusions, tabulate_classes
from analysis.comparison import against_e1, compare_configurations, select_shown
from analysis.configurations import name_configurations
from analysis.figures import draw_optional_figures
from analysis.frames import records
from analysis.noise_levels import fit_class_fingerprints
from analysis.report import write_report
from analysis.statistics import estimate, holm
from studies.commands.program import main
from studies.commands.tables.comparison import ComparisonTable

NAMES = tuple(CLASSES)
SLICES, VOLUMES = 5, 6
GROUPS = [f"v{k // SLICES}" for k in range(VOLUMES * SLICES)]
LAYERS = ("background", *NAMES)


def pixels_of(config):
    """Pixels [class, image] of the truth, the prediction and both; E2 shares more. The last volume has no lesion."""
    draw = np.random.default_rng([config.seed, config.experiment == "e2"])
    true = np.random.default_rng(7).integers(20, 200, (2, len(GROUPS)))
    predicted = (true * draw.uniform(0.8, 1.2, true.shape)).astype(int)
    shared = (
        np.minimum(true, predicted) * draw.uniform(0.8, 0.9, true.shape) * (1.0 if config.experiment == "e2" else 0.9)
    )
    counts = np.stack([true, predicted, shared.astype(int)])
    counts[:, 1, -SLICES:] = 0
    return counts


def dice_of(counts):
    """Dice [class, volume] of counts [3, class, image]."""
    true, predicted, shared = counts.reshape(3, 2, VOLUMES, SLICES).sum(-1)
    return np.where(true + predicted, 2 * shared / np.maximum(1, true + predicted), 1.0)


def metric_rows(values_of, group=GROUPS):
    """Rows of `images` of values by metric and class."""
    return [
        {"image": f"{k}", "group": group[k], "class": name, "metric": metric, "value": float(value)}
        for (metric, name), row in values_of.items()
        for k, value in enumerate(row)
    ]


def measured(config, rows):
    """Segmentations by the pixels of `pixels_of`, confusions, and a lesion that is lost at t = 0.3 without the image."""
    rows = split_classes(rows, lambda table, row, number: row)
    if config.experiment in ("e1", "e2"):
        counts = pixels_of(config)
        true, predicted, shared = counts
        iou = np.where(true + predicted, shared / np.maximum(1, true + predicted - shared), 1.0)
        found = {("iou", "all"): iou.mean(0)} | {("iou", name): iou[k] for k, name in enumerate(NAMES)}
        for metric, own in zip(("true_pixels", "predicted_pixels", "shared_pixels"), counts, strict=True):
            found |= {(metric, "all"): own.mean(0)} | {(metric, name): own[k] for k, name in enumerate(NAMES)}
        rows["images"] = metric_rows(found)
        rows["calibration"] = [row | {"image": f"{k}"} for k in range(2) for row in rows["calibration"]]
        rows["trials"][0] |= {"iou": iou.mean(), "dice": None}
        rows["confusion"] = [
            {"image": f"{k}", "truth": one, "predicted": other, "count": 90 if one == other else 10 * (1 + number)}
            for k in range(2)
            for number, one in enumerate(LAYERS)
            for other in LAYERS
            if {one, other} != set(NAMES)
        ]
    for row in rows.get("timesteps", []):
        if row["class"] == "lesion":
            row["mask_error"] = 0.01 * min(1.0, row["t"] / 0.3)
    return rows


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    chosen = [with_classes(config) for config in configs(("e1", "e2", "e3"), ("x0",)) if config.data.name == "big"]
    return write_study(tmp_path_factory.mktemp("store"), chosen, measured)


@pytest.fixture(scope="module")
def found(ledger):
    return tables.load([ledger])


def expected_dice(found, experiment):
    trials = found.trials[found.trials["experiment"] == experiment].sort_values("seed")
    return np.stack(
        [dice_of(pixels_of(config)) for config in map(_config_of, trials["config"])]
    )  # [seed, class, volume]


def _config_of(text):
    from diffseg.config import load

    return load(text)


def test_the_dice_of_a_volume_is_that_of_its_pixels(found):
    trials = found.trials[found.trials["experiment"] == "e1"]
    dice = expected_dice(found, "e1")
    assert (dice[:, 1, -1] == 1).all()  # neither has a lesion
    for name, expected in (("all", dice.mean(1)), ("organ", dice[:, 0]), ("lesion", dice[:, 1])):
        sample = found.measurements.sample(trials, "dice_group", name)
        one = estimate(expected)
        assert (sample.images, sample.units) == (VOLUMES, VOLUMES)
        assert sample.estimate.mean == pytest.approx(one.mean)
        assert (sample.estimate.low, sample.estimate.high) == pytest.approx((one.low, one.high))
    slices = found.measurements.sample(trials, "iou", "organ").estimate
    assert slices.mean != pytest.approx(dice[:, 0].mean(), abs=0.01)


UNKNOWN = float("nan")


@pytest.mark.parametrize(
    ("groups", "counts", "expected"),
    [
        (["a", "a", "b"], [[4, 0, 2], [2, 0, 2], [1, 0, 2]], [2 / 6, 1.0]),  # a slice with neither changes nothing
        (["a", "a", "b"], [[0, 0, 2], [0, 0, 2], [0, 0, 2]], [1.0, 1.0]),  # empty against empty
        (["a", "a", "b"], [[4, 4, 2], [0, 4, 0], [0, 4, 0]], [8 / 12, 0.0]),
        (["a", "a", "b"], [[4, UNKNOWN, 2], [4, UNKNOWN, 2], [4, UNKNOWN, 1]], [1.0, 0.5]),  # no pixel of it counts
        (["a", "a", "b"], [[4, 4, UNKNOWN], [4, 4, UNKNOWN], [2, 2, UNKNOWN]], [0.5]),
        (["a", None, None], [[4, 4, 2], [4, 4, 2], [4, 2, 0]], [1.0, 0.5, 0.0]),  # images without a group are alone
        ([None, None, None], [[4, 4, 2], [4, 4, 2], [4, 2, 0]], None),  # no volume is known
    ],
)
def test_the_dice_of_a_volume_of_one_class(groups, counts, expected, tmp_path):
    def edit(config, rows):
        names = ("true_pixels", "predicted_pixels", "shared_pixels")
        rows["images"] = metric_rows({(name, "all"): own for name, own in zip(names, counts, strict=True)}, groups)
        return rows

    few = tables.load([write_study(tmp_path, configs(("e1",), ("x0",))[:1], edit)])
    sample = few.measurements.sample(few.trials, "dice_group")
    assert (sample is None) == (expected is None)
    if expected:
        assert sorted(sample.values.to_numpy().ravel()) == pytest.approx(sorted(expected))


def test_versions_that_did_not_count_pixels_have_no_dice_of_volumes(tmp_path):
    old = tables.load([write_study(tmp_path, configs(("e1", "e2"), ("x0",)), lambda config, rows: rows)])
    rows = compare_configurations(old, name_configurations(list(old.ledgers)))
    assert "dice_group" not in set(rows["metric"])
    assert set(rows["class"]) == {"all"}
    assert set(tabulate_classes(old)["groups"]) == {0}


def test_classes_are_compared_each_by_itself(found, ledger):
    rows = compare_configurations(found, name_configurations([ledger]))
    keys = set(zip(rows["class"], rows["metric"], strict=True))
    assert {(name, metric) for name in ("all", *NAMES) for metric in ("iou", "dice_group")} <= keys
    e2 = rows[rows["configuration"] == "e2"].set_index(["class", "metric"])
    gain = expected_dice(found, "e2") - expected_dice(found, "e1")
    for name, expected in (("all", gain.mean(1)), ("organ", gain[:, 0]), ("lesion", gain[:, 1])):
        row, one = e2.loc[(name, "dice_group")], estimate(expected)
        assert row["difference"] == pytest.approx(one.mean)
        assert row["p"] == pytest.approx(one.p)  # one comparison: as it is
        assert row["verdict"] == "better"
    shown = select_shown(records(rows))
    assert {row["metric"] for row in shown if row["class"] == "organ"} == {"iou", "dice_group"}
    assert {row["class"] for row in select_shown(records(rows), "lesion")} == {"lesion"}


def test_p_values_are_corrected_within_a_class_and_metric(tmp_path):
    """Three configurations, of which two are compared: each p is that of two tests, whatever the number of classes."""
    chosen = [with_classes(config) for config in configs(("e1", "e2"), ("x0", "epsilon")) if config.data.name == "big"]
    several = tables.load([write_study(tmp_path, chosen, measured)])
    rows = compare_configurations(several, name_configurations(list(several.ledgers)))
    table1 = against_e1(several.table1(), several)
    assert len(table1) == 2 * 3
    for name in ("all", *NAMES):
        own = rows[(rows["class"] == name) & (rows["metric"] == "iou") & ~rows["baseline"]]
        alone = [found_p(several, variant, name) for variant in own["variant"]]
        assert own["p"].to_numpy() == pytest.approx(holm(np.array(alone)))
        assert table1.loc[table1["class"] == name, "iou_p"].to_numpy() == pytest.approx(holm(np.array(alone)))


def found_p(found, variant, name):
    ours = found.trials[found.trials["experiment"] == "e1"]
    theirs = found.trials[(found.trials["experiment"] == "e2") & (found.trials["variant"] == variant)]
    return found.measurements.sample(theirs, "iou", name).minus(found.measurements.sample(ours, "iou", name)).estimate.p


def test_table1_has_a_row_for_each_class(found):
    rows = against_e1(found.table1(), found)
    assert rows["class"].tolist() == ["all", *NAMES]
    rows = rows.set_index("class")
    for number, name in enumerate(NAMES):
        for experiment in ("e1", "e2"):
            trials = found.trials[found.trials["experiment"] == experiment]
            counts = [pixels_of(_config_of(text))[:, number] for text in trials["config"]]
            iou = [np.where(t + p, s / np.maximum(1, t + p - s), 1.0).mean() for t, p, s in counts]
            assert rows.loc[name, f"iou_{experiment}"] == pytest.approx(np.mean(iou))
            assert rows.loc[name, f"iou_sd_{experiment}"] == pytest.approx(np.std(iou, ddof=1))
        assert rows.loc[name, "iou_difference"] == pytest.approx(rows.loc[name, "iou_e2"] - rows.loc[name, "iou_e1"])
        assert rows.loc[name, "iou_verdict"] == "better"


def test_classes_and_volumes_have_intervals(found):
    rows = tabulate_classes(found).set_index(["experiment", "class"])
    assert set(rows.index) == {(one, name) for one in ("e1", "e2") for name in ("all", *NAMES)}
    row = rows.loc[("e2", "organ")]
    assert (row["seeds"], row["images"], row["groups"]) == (3, len(GROUPS), VOLUMES)
    assert row["dice_group_low"] < row["dice_group"] < row["dice_group_high"]
    assert row["iou_low"] < row["iou"] < row["iou_high"]


def test_confusions_are_shares_of_the_truth(found):
    rows = count_confusions(found)
    assert rows.groupby(["series", "truth"])["share"].sum().to_numpy() == pytest.approx(1)
    one = rows[rows["experiment"] == "e1"].set_index(["truth", "predicted"])
    assert one.loc[("background", "organ"), "count"] == 10 * 2 * 3  # two images, three seeds
    assert one.loc[("organ", "organ"), "share"] == pytest.approx(90 / 110)
    assert ("organ", "lesion") not in one.index
    drawn = pd.DataFrame(values(class_charts.confusion(found)))
    assert len(drawn) == 2 * 7
    assert {"share", "count", "truth", "predicted"} <= set(drawn)


def test_class_errors_are_shares_of_the_greatest(found):
    rows = pd.DataFrame(values(class_charts.class_errors(found)))
    for (name, experiment), curve in rows.groupby(["class", "experiment"]):
        rise = np.minimum(1, T / (0.3 if name == "lesion" else 0.8))
        if (name, experiment) == ("organ", "e2"):  # the image helps from t = 0.5 on
            rise = np.where(T <= 0.5, rise, 0.3)
        assert np.allclose(curve.sort_values("t")["part"], rise)
    assert set(rows["class"]) == set(NAMES)


def test_the_class_that_is_lost_at_less_noise_is_decided_last(found):
    ((group, one),) = fit_class_fingerprints(found.class_timesteps)
    assert group["dataset"] == "big"
    assert list(one) == list(NAMES)
    assert one["lesion"].find_level(0.5) > one["organ"].find_level(0.5) + 2  # log-SNR is 10 − 20 t
    assert one["organ"].find_level(0.5) == pytest.approx(10 - 20 * (0.8 + 0.05) / 2, abs=0.3)


@pytest.mark.slow
def test_the_report_shows_classes_where_there_are_several(ledger, found, tmp_path):
    page = " ".join(write_report([ledger], tmp_path / "report.html", tmp_path / "png").read_text().split())
    for words in (
        "Classes and volumes",
        "From noise to mask, organ is decided first",
        "Dice by patient or volume, class lesion",
        'each class and its mean over the classes ("all")',
        'id="confusion"',
        'id="class_errors"',
    ):
        assert words in page, words
    assert {"confusion", "class_errors"} <= {path.stem for path in (tmp_path / "png").iterdir()}
    one = write_study(tmp_path, configs(("e1", "e2", "e3"), ("x0",)), lambda config, rows: rows, "one")
    page = write_report([one], tmp_path / "one.html").read_text()
    for words in ("Classes and volumes", "confusion", "class_errors", "is decided first", ">class<"):
        assert words not in page, words


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_comparison_fits_the_terminal(found, ledger, width):
    rows = records(compare_configurations(found, name_configurations([ledger])))
    rows = [row | {"configuration": f"{row['configuration']}, a rather long name of a variant"} for row in rows]
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(ComparisonTable(rows))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "…" not in text
    for row in select_shown(rows):
        assert f"[{row['low']:.3f}, {row['high']:.3f}]" in text
    headings = [line for line in lines if line.startswith(("IoU", "Dice by"))]
    assert headings[0] == "IoU, big: 3 seeds, 30 images of 6 patients or volumes"
    assert "Dice by patient or volume, class organ, big: 3 seeds, 6 patients or volumes" in headings


def test_compare_shows_a_class_that_is_asked_for(ledger):
    def run(*options):
        return CliRunner().invoke(main, ["compare", "study", "--store", ledger.store, *options])

    usual, one = run(), run("--class", "lesion")
    assert "class organ" in usual.output
    assert "--class NAME shows all metrics of a class (all, organ, lesion)" in usual.output
    assert "ECE, class lesion" in one.output
    assert "organ" not in one.output
    every, own = json.loads(run("--json").output), json.loads(run("--json", "--class", "lesion").output)
    assert [row for row in every if row["class"] == "lesion"] == own
    assert {row["class"] for row in every} == {"all", *NAMES}
    refused = run("--class", "liver")
    assert refused.exit_code == 2
    assert "no class 'liver': allowed are all, organ, lesion" in refused.output


def test_empty_masks_are_not_spoken_of_where_there_are_none(found):
    assert uncertainty.count_empty(found).empty


@pytest.mark.slow
def test_a_class_may_be_absent_from_every_image(tmp_path):
    """A class without a pixel anywhere: Dice is 1, its curves are flat, and nothing fails."""

    def edit(config, rows):
        rows = measured(config, rows)
        for row in rows.get("images", []):
            if row["class"] == "lesion":
                row["value"] = 1.0 if row["metric"] == "iou" else 0.0
        for row in rows.get("timesteps", []):
            if row["class"] == "lesion":
                row["mask_error"] = 0.0
        return rows

    chosen = [with_classes(config) for config in configs(("e1", "e2", "e3"), ("x0",)) if config.data.name == "big"]
    ledger = write_study(tmp_path, chosen, edit)
    found = tables.load([ledger])
    assert (
        found.measurements.sample(
            found.trials[found.trials["experiment"] == "e1"], "dice_group", "lesion"
        ).estimate.mean
        == 1
    )
    page = write_report([ledger], tmp_path / "report.html").read_text()
    assert "train it longer" in page
    assert "50 % of the test masks of big are empty, of an image and a class. There IoU and Dice are 1 if" in page
    compared = compare_configurations(found, name_configurations([ledger]))
    assert {figure.name for figure in draw_optional_figures(found, found, compared, pd.DataFrame())} >= {
        "class_errors",
        "confusion",
    }
