"""Tables, charts and the report against a ledger whose numbers are known; and the page in a real browser (slow)."""

import base64
import io
import json
import re
import shutil
import time
from importlib import resources

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest
from PIL import Image

import analysis
from analysis import charts, paper, pictures, tables, uncertainty, uncertainty_charts
from analysis.figures import CHARTS, draw_figures
from analysis.findings import check_findings
from analysis.frames import GROUP
from analysis.noise_levels import errors_over_t, find_agreement, find_half_losses
from analysis.overlays import paint
from analysis.report import write_report
from analysis.segmentations import tabulate_studies
from analysis.series import describe_setting
from analysis.style import COLOURS, encode_series
from diffseg.config import NETWORKS, Config
from diffseg.errors import UserError
from studies.definition.study import Study
from studies.definition.trial import Trial, trial_name
from studies.engine.records import trial_row
from studies.engine.request import TrialRequest
from studies.store.ledger import Ledger
from studies.store.tables import SCHEMAS

DATASETS = ("big", "small")
SEEDS = (0, 1, 2)
T = np.arange(1, 21) / 20
SCRIPT = "<script>alert('x')</script>"


def configs(experiments=("e1", "e2", "e3", "e4"), targets=("x0", "epsilon")):
    found = {}
    for dataset in DATASETS:
        for experiment in experiments:
            for target in targets:
                for seed in SEEDS:
                    leaves = {
                        "experiment": experiment,
                        "seed": seed,
                        "data.name": dataset,
                        "diffusion.target": target,
                        "training.steps": 100,
                    }
                    config = Config().with_leaves(leaves).resolved()
                    found[config.digest] = config
    return list(found.values())


def error_at(config, t):
    """A mask error that rises along a line to 1 at t = 0.8, sooner for the small objects, and stays low with the image."""
    rise = np.minimum(1, t / (0.8 if config.data.name == "big" else 0.4))
    return np.where(t <= 0.5, rise, np.minimum(rise, 0.3)) if config.experiment == "e2" else rise


def weight_at(t):
    return float("inf") if t == 1 else 4 * float(t)


def iou_of(config):
    return (
        0.8
        + 0.01 * config.seed
        + (0.05 if config.experiment == "e2" else 0)
        - (0.02 if config.diffusion.target == "epsilon" else 0)
    )


def png(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


IMAGES = 40


def image_rows(config):
    """Images that are the worse the more uncertain, except one for each seed; error equals variance; GED falls."""
    variance = np.arange(1, IMAGES + 1) / (100 * IMAGES) * (2 if config.experiment == "e2" else 1)
    dice = 1 - 10 * variance
    dice[config.seed] = 0.5
    metrics = {
        "dice": dice,
        "brier": variance,
        "variance": variance,
        "ece_image": variance,
        "ece_foreground": 2 * variance,
    }
    metrics |= {"ece_boundary": 3 * variance, "samples": 0 * variance + 8}
    metrics |= {"ged": 0 * variance + 0.3, "ged_2": 0 * variance + 0.6, "ged_4": 0 * variance + 0.4}
    metrics |= {
        "ged_unbiased": 0 * variance + 0.2,
        "ged_unbiased_2": 0 * variance + 0.21,
        "ged_unbiased_4": 0 * variance + 0.2,
    }
    return [
        {"image": f"{k}", "metric": metric, "value": float(values[k])}
        for metric, values in metrics.items()
        for k in range(IMAGES)
    ]


def attempt(config, trial, status="complete", error=None):
    import datetime

    order = TrialRequest(
        store="s",
        study="study",
        trial=trial,
        attempt=1,
        config=config.canonical(),
        root=None,
        cpus=1,
        gpus=0,
        commit="0123456789abcdef",
        dirty=False,
    )
    row = trial_row(order, status, error, datetime.datetime.now(datetime.UTC)) | {"study": "study", "seconds": 60.0}
    if status == "failed":
        return {"trials": [row]}
    row |= {"device": "cpu", "parameters": 1000, "train_images": 10, "test_images": 4, "data_digest": "abc"}
    found = {"curves": [{"step": step, "metric": "loss", "value": 1 / step} for step in (10, 50, 100)]}
    if config.experiment in ("e1", "e2"):
        row |= {"iou": iou_of(config), "dice": 0.9, "ece": 0.02 + 0.001 * config.seed, "brier": 0.05, "nll": 0.2}
        found["calibration"] = [
            {"bin": b, "count": 10 * (b + 1), "confidence": b / 10 + 0.05, "accuracy": b / 10} for b in range(10)
        ]
        found["images"] = image_rows(config)
        found["examples"] = [
            {"image": f"{name} {SCRIPT}", "kind": kind, "png": png(60 * k)}
            for name in ("one", "two")
            for k, kind in enumerate(("image", "truth", "mean", "sd"))
        ]
    if config.experiment != "e1":
        masks = np.nan if config.experiment == "e4" else 1.0
        found["timesteps"] = [
            {
                "step": step,
                "t": float(t),
                "log_snr": float(10 - 20 * t),
                "mask_error": float(masks * error_at(config, t)) * scale,
                "loss": float(1.1 - t) * scale,
                "weight": weight_at(t),
            }
            for step, scale in ((75, 2.0), (100, 1.0))
            for t in T
        ]
    return {"trials": [row], **found}


def ledger_of(path, chosen, failed=()):
    ledger = Ledger(str(path), "study")
    trials = tuple(Trial(trial_name(config), config) for config in [*chosen, *failed])
    ledger.define(Study("study", trials, {}, command="diffseg run study.toml").definition())
    for trial in trials[: len(chosen)]:
        ledger.write(trial.name, 1, attempt(trial.config, trial.name))
    for trial in trials[len(chosen) :]:
        ledger.write(trial.name, 1, attempt(trial.config, trial.name, "failed", f"the loss is nan {SCRIPT}"))
    return ledger


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    failed = [Config().with_leaves({"experiment": "e3", "data.name": "big", "seed": 9}).resolved()]
    return ledger_of(tmp_path_factory.mktemp("store"), configs(), failed)


@pytest.fixture(scope="module")
def found(ledger):
    return tables.load([ledger])


def test_table1_has_means_and_deviations_over_seeds(found):
    rows = found.table1()
    assert len(rows) == 4  # two data sets, two targets of E2
    for row in rows.to_dict("records"):
        offset = 0.02 if row["variant_e2"] == "ε" else 0
        expected = np.array([0.85 + 0.01 * seed - offset for seed in SEEDS])
        assert row["iou_e2"] == pytest.approx(expected.mean())
        assert row["iou_sd_e2"] == pytest.approx(expected.std(ddof=1))
        assert row["iou_difference"] == pytest.approx(expected.mean() - row["iou_e1"])
        assert row["ece_e1"] == pytest.approx(0.021)
        assert row["seeds_e1"] == row["seeds_e2"] == 3
        assert row["images"] == 4
        assert row["variant_e1"] == ""


def test_half_losses_and_agreement_match_known_curves(found):
    """Half is lost halfway from the cleanest level, t = 0.05, to the end of the rise, but for the smoothing."""
    halves = find_half_losses(found.measured_fingerprints).set_index("dataset")
    assert halves["t"].to_dict() == pytest.approx({"big": 0.425, "small": 0.225}, abs=0.01)
    for group, one in found.measured_fingerprints:
        if one.kind == "mask-error":  # the report has one definition of half: the fingerprint's
            assert one.summary()["half_t"] == halves.loc[group["dataset"], "t"]
    agreed = find_agreement(errors_over_t(found, ["e2", "e3"], "mask_error"))
    assert set(agreed["t"].round(6)) == {0.5}
    assert set(agreed["e2_end"]) == {0.3}
    assert set(agreed["e3_end"]) == {1.0}


def test_fingerprints_match_known_curves(found):
    """The error is proportional to t, and linear in −λ = 20 t − 10, up to t = 0.8 or 0.4; 1 − Dice was not measured."""
    rows = {(group["dataset"], one.kind): one for group, one in found.measured_fingerprints}
    assert set(rows) == {(dataset, kind) for dataset in DATASETS for kind in ("mask-error", "entropy-rate")}
    for dataset, end in (("big", 0.8), ("small", 0.4)):
        one = rows[dataset, "mask-error"]
        assert one.find_level(0.5) == pytest.approx(10 - 20 * (end + 0.05) / 2, abs=0.3)
        assert one.derivative[one.t < end - 0.1] == pytest.approx(0.05 / end, rel=0.05)
        assert one.derivative[one.t > end + 0.1] == pytest.approx(0, abs=0.002)
    drawn = values(charts.fingerprint_weights(found))
    assert {row["kind"] for row in drawn} == {"mask-error", "entropy-rate"}
    assert max(row["weight"] for row in drawn) == 1


def values(chart):
    """The rows that a chart draws, from its specification, which Altair checks against Vega-Lite's schema."""
    spec = chart.to_dict(validate=True)
    return [row for rows in spec["datasets"].values() for row in rows]


DRAWN = {  # without a search, and without evaluations while training
    draw.__name__ for draw in CHARTS if not draw.__module__.startswith("analysis.search_")
} - {"validation_curves"}


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    chosen = [
        Config()
        .with_leaves(
            {"network": name, "experiment": experiment, "data.name": "big", "diffusion.target": "x0", **leaves}
        )
        .resolved()
        for name in ("ensemdiff", "segdiff", "medsegdiff", "segformer", "nnunet")
        for experiment in ("e1", "e2", "e3")
        for leaves in ({}, {"inference.seeds": [1, 2, 3]} if experiment == "e1" else {})
        if experiment == "e1" or name not in ("segformer", "nnunet")
    ]
    distinct = {config.digest: config for config in chosen}.values()
    return ledger_of(tmp_path_factory.mktemp("several"), list(distinct))


class TestSeveralNetworks:
    def test_a_deep_ensemble_is_not_averaged_with_its_members(self, several):
        rows = tables.load([several]).table1()
        assert len(rows) == 5 * 2
        assert set(rows["variant_e1"]) == {"one network", "deep ensemble of 3"}
        assert set(rows["seeds_e1"]) == {1}

    def test_the_error_with_the_image_is_compared_with_that_of_the_same_network(self, several):
        found = tables.load([several])
        agreed = find_agreement(errors_over_t(found, ["e2", "e3"], "mask_error"))
        assert sorted(agreed["series"]) == [f"E2 diffusion, {name}" for name in ("ensemdiff", "medsegdiff", "segdiff")]
        halves = find_half_losses(found.measured_fingerprints)
        assert sorted(halves["network"]) == ["ensemdiff", "medsegdiff", "segdiff"]

    def test_no_two_series_look_alike(self, several):
        found = tables.load([several])
        shown = found.trials.loc[found.trials["experiment"].isin(["e1", "e2"]), "series"]
        look = encode_series(found, shown)
        for channel in ("shape", "strokeDash"):
            scales = [look[name].to_dict()["scale"] for name in ("color", channel)]
            pairs = list(zip(*(map(str, scale["range"]) for scale in scales), strict=True))
            assert len(pairs) == len(set(pairs)) == 13

    def test_a_network_has_one_colour_everywhere(self, several):
        found = tables.load([several])
        names = found.trials.set_index("series")["network"].to_dict()
        for experiments in (["e1"], ["e2", "e3"], ["e1", "e2", "e3"]):
            shown = found.trials.loc[found.trials["experiment"].isin(experiments), "series"]
            scale = encode_series(found, shown)["color"].to_dict()["scale"]
            for series, colour in zip(scale["domain"], scale["range"], strict=True):
                assert colour == COLOURS[list(NETWORKS).index(names[series])]

    @pytest.mark.slow
    def test_the_page_names_networks_and_baselines(self, several, tmp_path):
        page = " ".join(write_report([several], tmp_path / "report.html").read_text().split())
        assert "E1 with" in page
        assert "deep ensemble of 3" in page
        assert "for big (segdiff)" in page


def test_charts_draw_the_ledgers_numbers(found):
    rows = pd.DataFrame(values(charts.mask_errors(found)))
    assert set(rows["experiment"]) == {"e2", "e3"}
    for (dataset, experiment), curve in rows.groupby(["dataset", "experiment"]):
        config = Config().with_leaves({"experiment": experiment, "data.name": dataset})
        assert np.allclose(curve["mean"], error_at(config, curve["t"].to_numpy()))
        assert set(curve["seeds"]) == {3}
    rows = pd.DataFrame(values(charts.losses(found)))
    assert set(rows["experiment"]) == {"e2", "e4"}
    assert np.allclose(rows["mean"], 2 * (1.1 - rows["t"]))  # the snapshot at 75 %, whose errors are doubled here
    assert set(rows["share"]) == {0.75}
    rows = pd.DataFrame(values(charts.fingerprints(found)))
    rows, halves = rows[rows["line"] == "mean"], rows[rows["line"].isna()]
    for dataset, curve in rows.groupby("dataset"):
        config = Config().with_leaves({"experiment": "e3", "data.name": dataset})
        rise = error_at(config, curve["t"].to_numpy())
        assert np.allclose(curve["error"], rise)
        whole = curve["t"].between(0.1, 0.3)  # where it rises in proportion to t; log-SNR is 10 − 20 t
        assert np.allclose(curve["derivative"][whole], np.gradient(rise, 20 * curve["t"])[whole], rtol=0.1)
        assert curve["weight"].max() == 1
    assert len(rows) == 2 * len(T)
    assert dict(zip(halves["dataset"], halves["t"], strict=True)) == pytest.approx(
        {"big": 0.425, "small": 0.225}, abs=0.01
    )
    weights = pd.DataFrame(values(charts.effective_weights(found)))
    assert set(weights["experiment"]) == {"e2"}
    assert np.allclose(
        weights["share"], weights["t"] / 0.95
    )  # relative to the last point but one; the last is infinite
    assert len(weights) == 2 * 2 * (len(T) - 1)
    calibration = pd.DataFrame(values(uncertainty_charts.reliability(found)))
    assert np.allclose(calibration["confidence"] - calibration["accuracy"], 0.05)
    assert (
        calibration["count"].sum() == sum(10 * (b + 1) for b in range(10)) * 3 * 2 * 3
    )  # three seeds, two data sets, E1 and two E2
    assert len(values(charts.learning_curves(found))) == 3 * 2 * 5


@pytest.mark.parametrize(("shift", "scale"), [(0.0, "log"), (0.05, "symlog")])
def test_learning_curves_below_zero_are_drawn(found, shift, scale, monkeypatch):
    curves = found.curves()
    monkeypatch.setattr(tables.Tables, "frame", lambda *_: curves.assign(value=curves["value"] - shift))
    spec = charts.learning_curves(found).to_dict()
    assert spec["spec"]["encoding"]["y"]["scale"]["type"] == scale


def test_every_chart_of_the_report_is_valid(found):
    drawn = draw_figures(found.shown())
    assert [figure.name for figure in drawn] == [draw.__name__ for draw in CHARTS]
    assert {figure.name for figure in drawn if figure.chart} == DRAWN
    for figure in drawn:
        assert figure.chart is None or values(figure.chart)


class TestUncertainty:
    def test_risk_rises_with_coverage_and_its_area_follows_the_definition(self, found):
        table = uncertainty.aurc(found).set_index("series")
        for experiment, scale in (("e1", 1), ("e2", 2)):
            areas, excesses = [], []
            for seed in SEEDS:
                variance = scale * np.arange(1, IMAGES + 1) / (100 * IMAGES)
                risk = 10 * variance
                risk[seed] = 0.5  # one image is bad, which its variance does not show
                selective = risk.cumsum() / np.arange(1, IMAGES + 1)
                best = np.sort(risk).cumsum() / np.arange(1, IMAGES + 1)
                areas.append(selective.mean())
                excesses.append((selective - best).mean())
            rows = table[table["experiment"] == experiment]
            assert np.allclose(rows["aurc"], np.mean(areas))
            assert np.allclose(rows["excess_aurc"], np.mean(excesses))
            assert set(rows["images"]) == {IMAGES}
        curve = uncertainty.risk_coverage(found)
        assert (curve["risk"] >= curve["oracle"] - 1e-12).all()
        assert curve.groupby(GROUP)["coverage"].max().eq(1).all()

    def test_images_of_equal_variance_share_their_risk(self):
        images = pd.DataFrame({"variance": [0.1, 0.1, 0.2], "dice": [1.0, 0.0, 1.0]})
        coverage, risk, best = uncertainty.risk_curves(images)
        assert np.allclose(coverage, [1 / 3, 2 / 3, 1])
        assert np.allclose(risk, [0.5, 0.5, 1 / 3])
        assert np.allclose(best, [0, 0, 1 / 3])

    def test_error_and_variance_are_equal_in_every_group_of_calibrated_samples(self, found):
        rows = uncertainty.error_by_variance(found)
        assert np.allclose(rows["variance"], rows["error"])
        assert set(rows.groupby(GROUP)["group"].nunique()) == {10}
        assert set(rows["images"]) == {IMAGES * len(SEEDS) // 10}

    def test_ged_is_tabulated_by_the_number_of_samples(self, found):
        rows = uncertainty.ged_by_samples(found)
        one = rows[rows["series"] == rows["series"].iloc[0]]
        one = one[one["dataset"] == "big"].set_index(["estimate", "samples"])["ged"].round(6).to_dict()
        assert one == {
            ("as published", 2): 0.6, ("as published", 4): 0.4, ("as published", 8): 0.3,
            ("without bias", 2): 0.21, ("without bias", 4): 0.2, ("without bias", 8): 0.2,
        }  # fmt: skip

    def test_calibration_is_summarised_for_images_and_their_regions(self, found):
        rows = uncertainty.image_calibration(found)
        e1 = rows[rows["experiment"] == "e1"].set_index("region")
        mean = np.mean(np.arange(1, IMAGES + 1)) / (100 * IMAGES)
        assert np.allclose(e1.loc["boundary", "mean"], 3 * mean)
        assert np.allclose(e1.loc["foreground", "mean"], 2 * mean)
        assert (rows["low"] < rows["median"]).all()


class TestFindings:
    def verdicts(self, found):
        rows = check_findings(found)
        assert set(rows["finding"]) == {1, 2, 3, 4, 5}
        return [tuple(row) for row in rows[["finding", "verdict", "number"]].to_numpy()]

    def test_findings_are_decided_by_tests_of_the_trials(self, found):
        rows = self.verdicts(found)
        assert rows[0][1] == "inconclusive"  # the ECE of both is the same
        assert "big, ensemdiff, x0: ECE of E2 − E1 0.000 (0.000 to 0.000; p = 1.000)" in rows[0][2]
        assert rows[1][1] == "reproduced"
        assert "big, ensemdiff, x0: IoU of E2 − E1 (%) +7.00 (+7.00 to +7.00; p < 0.001)" in rows[1][2]
        assert rows[2][1] == "not decidable"
        assert rows[3][1] == "inconclusive"
        assert "up to t = 0.50" in rows[3][2]
        assert rows[4][1] == "reproduced"
        assert "3.3 (3.3 to 3.3; p < 0.001)" in rows[4][2]
        assert rows[5][1] == "reproduced"
        assert "−1.000" in rows[5][2]
        assert rows[6][1] == "not decidable"
        assert rows[7][1] == rows[8][1] == "not decidable"  # none of the paper's data sets
        assert rows[9][1] == "reproduced"

    def test_findings_over_t_are_checked_for_the_linear_schedule_only(self, found):
        trials = found.trials.assign(config_diffusion_schedule="cosine")
        rows = self.verdicts(tables.Tables(found.ledgers, trials, found.failed))
        assert {verdict for number, verdict, _ in rows if number in (2, 3, 4)} == {"not decidable"}

    def test_one_seed_decides_nothing_over_t_and_the_words_say_so(self, found):
        trials = found.trials[found.trials["seed"] == 0]
        rows = self.verdicts(tables.Tables(found.ledgers, trials, found.failed))
        decided = [
            (verdict, words) for number, verdict, words in rows if number in (2, 3) and verdict != "not decidable"
        ]
        assert {verdict for verdict, _ in decided} == {"inconclusive"}
        assert all("one seed, so no interval" in words for _, words in decided)
        assert all("nan" not in words for *_, words in rows)

    def test_the_papers_numbers_are_beside_the_studys(self):
        ours = pd.DataFrame({"dataset": ["isic16", "mine", "isic16"], "network": "segdiff", "iou_e1": [0.8, 0.7, 0.6]})
        rows = paper.add_paper_numbers(ours.assign(**{"class": ["all", "all", "lesion"]}))
        assert list(rows["iou_e1"]) == [0.8, 0.7, 0.6]
        assert rows["paper_iou_e2"].iloc[0] == pytest.approx(0.8639)
        assert rows["paper_ece_e1"].isna().tolist() == [False, True, True]


class TestLoad:
    def test_a_notebook_loads_results_in_three_lines(self, ledger):
        results = analysis.load(ledger.store, "study")
        best = results.best("ece")
        assert list(best.groupby("dataset")["ece"].first()) == [0.02, 0.02]
        assert best.groupby("dataset")["ece"].apply(lambda values: values.is_monotonic_increasing).all()
        front = results.pareto()
        assert set(front["seed"]) == {0, 1, 2}  # of greater seeds, IoU and ECE are both greater
        assert set(front["experiment"]) == {"e2"}
        assert len(results.table1()) == 4
        assert set(results.fingerprints()["kind"]) == {"mask-error", "entropy-rate"}  # 1 − Dice was not measured
        assert set(results.curves()["metric"]) == {"loss"}
        with pytest.raises(UserError, match="there is no study 'other'"):
            analysis.load(ledger.store, ["study", "other"])

    def test_tables_are_scanned_by_column_and_condition(self, ledger, found):
        data = found.dataset("images")
        count = data.count_rows(filter=(ds.field("metric") == "dice") & (ds.field("value") > 0.9))
        frame = found.frame("images", ["value"], ds.field("metric") == "dice")
        assert count == (frame["value"] > 0.9).sum() > 0
        assert not {"metric", "image"} & set(frame)
        assert len(frame) == IMAGES * (found.trials["experiment"].isin(["e1", "e2"])).sum()

    @pytest.mark.slow
    def test_studies_of_older_versions_are_read(self, tmp_path, monkeypatch):
        """The older version lacked a setting and a column."""
        old = ledger_of(tmp_path, configs(("e1",)))
        name = next(iter(old.last_attempts()))
        rows = old.read("trials", trials=[name]).to_pylist()[0]
        rows = {
            k: v for k, v in rows.items() if k not in ("trial", "attempt", "config_diffusion_input_scale", "samples")
        }
        schema = SCHEMAS["trials"]
        monkeypatch.setitem(SCHEMAS, "trials", schema.remove(schema.get_field_index("samples")))
        Ledger(str(tmp_path), "older").write("e1-old", 1, {"trials": [{**rows, "study": "older"}]})
        monkeypatch.undo()
        Ledger(str(tmp_path), "older").define({"trials": {}})
        found = analysis.load(tmp_path, ["study", "older"])
        assert len(found.trials) == len(configs(("e1",))) + 1
        assert set(found.trials["study"]) == {"study", "older"}
        assert write_report(list(found.ledgers), tmp_path / "both.html").exists()

    def test_only_the_best_variants_are_shown(self, found):
        shown = found.shown(variants=1)
        e2 = shown.trials[shown.trials["experiment"] == "e2"]
        assert set(e2["variant"].str.contains("ε")) == {False}
        assert len(e2) == 2 * len(SEEDS)
        assert set(shown.timesteps["trial"]) <= set(shown.trials["trial"])


def test_pictures_of_the_forward_process_follow_the_log_snr(found):
    rows = pd.DataFrame(values(pictures.forward_process(found)))
    assert len(rows) == 2 * 2 * len(pictures.TIMES)
    assert rows["words"].str.startswith("t = ").all()
    sources = [np.asarray(Image.open(io.BytesIO(base64.b64decode(src.split(",")[1])))) for src in rows["src"]]
    assert all(picture.shape == (8, 8) for picture in sources)
    rows = pd.DataFrame(values(pictures.ensembles(found)))
    assert rows["image"].nunique() == 2
    assert "image and truth" in set(rows["words"])
    for kind in ("mask", "mean", "sd"):
        assert sum(words.endswith(f", {kind}") for words in set(rows["words"].dropna())) == 3


def test_error_maps_show_the_distance_of_mean_and_truth(found):
    rows = pd.DataFrame(values(pictures.error_maps(found))).dropna(subset=["src"])
    assert rows["words"].str.rsplit(", ", n=1).str[1].value_counts().to_dict() == {"error": 12, "sd": 12}
    for row in rows.to_dict("records"):  # truth 60, mean 120, sd 180 of 255
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(row["src"].split(",")[1]))))
        if row["words"].endswith("error"):
            assert set(pixels.ravel()) == {60}
        else:
            assert np.array_equal(pixels, np.asarray(paint(np.full((8, 8), 180 / 255))))


@pytest.mark.slow
def test_two_studies_are_compared(ledger, tmp_path):
    other = Ledger(str(tmp_path), "better")
    chosen = configs(("e1", "e2"))
    for config in chosen:
        rows = attempt(config, trial_name(config))
        rows["trials"][0] |= {"iou": iou_of(config) + 0.01, "study": "better"}
        other.write(trial_name(config), 1, rows)
    other.define({"trials": {trial_name(config): {} for config in chosen}, "command": "diffseg run better.toml"})
    found = tables.load([ledger, other])
    rows = tabulate_studies(found).set_index(["dataset", "experiment", "study"])
    assert rows.loc[("big", "e2", "better"), "iou_difference"] == pytest.approx(0.01)
    assert rows.loc[("big", "e2", "study"), "iou_difference"] == 0
    assert rows.loc[("big", "e1", "better"), "trials"] == len(SEEDS)
    assert set(found.trials["series"].str.rsplit(", ", n=1).str[1]) == {"study", "better"}
    page = " ".join(write_report([ledger, other], tmp_path / "report.html").read_text().split())
    assert "Studies compared" in page
    assert "diffseg report study better" in page


@pytest.mark.slow
def test_charts_are_exported(ledger, tmp_path):
    write_report([ledger], tmp_path / "report.html", tmp_path / "png")
    assert {path.stem for path in (tmp_path / "png").iterdir()} == DRAWN | {"e1_against_e2"}
    assert all(Image.open(path).size[0] > 300 for path in (tmp_path / "png").iterdir())


def test_the_words_of_a_setting_distinguish_its_values():
    words = {
        ("config_diffusion_weighting", "edm"): "weighting edm",
        ("config_diffusion_schedule", "edm"): "schedule edm",
        ("config_diffusion_self_conditioning", True): "self conditioning",
        ("config_diffusion_self_conditioning", False): "no self conditioning",
        ("config_diffusion_input_scale", 0.1): "input scale 0.1",
        ("config_diffusion_profile", "[]"): "no profile",
        ("config_diffusion_target", "epsilon"): "ε",
        ("config_diffusion_activation", "tanh"): "tanh",
    }
    for (column, value), label in words.items():
        assert describe_setting(column, value) == label
    one, other = (
        describe_setting("config_diffusion_profile", text) for text in ("[[0, 1], [1, 2]]", "[[0, 1], [1, 3]]")
    )
    assert one != other


def test_the_page_is_complete_and_escapes_names_of_users(ledger, tmp_path):
    page = write_report([ledger], tmp_path / "report.html").read_text()
    body, *scripts = re.split(r"<script>", page)
    assert len(scripts) == 2  # Vega and the charts; none came from names or errors
    assert "alert(&#39;x&#39;)" in body
    assert "<script>alert" not in page
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", body)
    assert "default-src 'none'" in body
    assert "30 of 31 trials are complete, 1 failed" in " ".join(body.split())
    assert "diffseg run study.toml" in body
    assert "85.00" in page or "86.00" in page
    for name in DRAWN:
        assert f'id="{name}"' in body
    specs = re.search(r"const figures = \{(.*)\};", scripts[1], re.DOTALL).group(1)
    for name in ("mask_errors", "losses"):
        start = specs.index(f"{name}: ") + len(name) + 2
        assert json.JSONDecoder().raw_decode(specs[start:])[0]["$schema"]


def test_trials_of_an_installed_program_have_no_commit(tmp_path):
    ledger, config = Ledger(str(tmp_path), "study"), configs(("e1",))[0]
    rows = attempt(config, trial_name(config))
    rows["trials"][0] |= {"git_commit": None, "dirty": False}
    ledger.define({"trials": {}, "command": "diffseg run study"})
    ledger.write(trial_name(config), 1, rows)
    assert "To reproduce this report:" in write_report([ledger], tmp_path / "report.html").read_text()


def test_the_report_of_a_half_done_study_counts_missing_trials(tmp_path):
    ledger = ledger_of(tmp_path, configs(("e1",)))
    page = write_report([ledger], tmp_path / "report.html").read_text()
    missing = page[page.index('id="missing"') : page.index('id="provenance"')]
    for words in ("fingerprints needs complete trials of E3", "mask errors needs complete trials of E2 or E3"):
        assert words in missing
    assert missing.count("<code>diffseg ") == sum(
        figure.chart is None for figure in draw_figures(tables.load([ledger]).shown())
    )
    for empty in ("fingerprint", "findings", "searches", "learning_"):
        assert f'<h2 id="{empty}"' not in page
        assert f'href="#{empty}"' not in page
    assert "80.00" in page or "81.00" in page


def test_a_study_without_complete_trials_is_refused_or_reported_as_failed(tmp_path):
    with pytest.raises(UserError, match="no trial of study has ended"):
        write_report([Ledger(str(tmp_path), "study")], tmp_path / "report.html")
    ledger = ledger_of(tmp_path, [], configs(("e1",)))
    assert "6 failed" in " ".join(write_report([ledger], tmp_path / "report.html").read_text().split())


OVERLAPS = """
const boxes = [...document.querySelectorAll('h1, h2, h3, nav, p, ul, pre, details, .card, .scroll, figcaption')]
    .map(element => [element, element.getBoundingClientRect()]).filter(([, box]) => box.width && box.height);
return boxes.flatMap(([one, a], k) => boxes.slice(k + 1).filter(([other, b]) =>
    !one.contains(other) && a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1
).map(([other]) => one.outerHTML.slice(0, 80) + ' / ' + other.outerHTML.slice(0, 80)));
"""
LABELS = """
return [...document.querySelectorAll('.chart .role-axis-label')].flatMap(group => {
    const texts = [...group.children].filter(text => text.textContent && getComputedStyle(text).opacity > 0);
    const boxes = texts.map(text => text.getBoundingClientRect());
    return boxes.flatMap((a, k) => boxes.slice(k + 1).filter(b =>
        a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1
    ).map(() => group.closest('.chart').id));
});
"""


@pytest.fixture
def browser():
    """Return a function from width and darkness to a headless Chromium that logs its requests."""
    selenium = pytest.importorskip("selenium.webdriver")
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("needs chromium and chromedriver")
    opened = []

    def start(width, dark=False):
        options = selenium.ChromeOptions()
        options.binary_location = binary
        for flag in (
            "headless=new",
            "no-sandbox",
            "disable-gpu",
            "no-first-run",
            "disable-background-networking",
            "disable-component-update",
            "disable-sync",
            f"window-size={width},2000",
        ):
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        opened.append(selenium.Chrome(options=options, service=selenium.ChromeService(driver)))
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        opened[-1].execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        opened[-1].execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 2000, "deviceScaleFactor": 1, "mobile": False},
        )
        return opened[-1]

    yield start
    for one in opened:
        one.quit()


def opened(browser, path) -> float:
    """Open a report, wait until its charts are drawn, and return the seconds that this took."""
    clock = time.monotonic()
    browser.get(path.as_uri())
    while browser.execute_script("return document.documentElement.dataset.drawn") != "all":
        assert time.monotonic() - clock < 60
        time.sleep(0.02)
    return time.monotonic() - clock


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 768, 390])
def test_the_page_in_a_browser(ledger, tmp_path, browser, width, dark):
    path, page = write_report([ledger], tmp_path / "report.html"), browser(width, dark)
    opened(page, path)
    check_page(page, path, width, 1 + sum(bool(figure.chart) for figure in draw_figures(tables.load([ledger]).shown())))
    dark_ground = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (dark_ground == "rgb(22, 24, 27)") == dark


def check_page(page, path, width, charts):
    """Check that there is no console error and no request, that every chart is drawn, that nothing is wider than the window or
    overlaps, and that axe has no serious finding."""
    drawn = page.execute_script(
        "return [...document.querySelectorAll('.chart')].map(c => c.querySelector('svg.marks')?.getBoundingClientRect().width)"
    )
    assert len(drawn) == charts
    assert all(size > 100 for size in drawn)
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if not url.startswith(("data:", "blob:", path.as_uri()))] == []
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    assert page.execute_script(OVERLAPS) == []
    assert page.execute_script(LABELS) == []
    page.execute_script(resources.files("axe_core_python").joinpath("axe.min.js").read_text())
    found = page.execute_async_script("axe.run(document, {resultTypes: ['violations']}).then(arguments[0])")
    serious = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in serious] == []


@pytest.mark.slow
def test_the_page_is_used_by_keyboard(ledger, tmp_path, browser):
    """The first tab stop leads to the content; every chart and button is a tab stop; Enter saves CSV, PNG and SVG."""
    from selenium.webdriver.common.keys import Keys

    page = browser(1280)
    page.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path / "saved")})
    opened(page, write_report([ledger], tmp_path / "report.html"))
    stops = []
    for _ in range(150):
        page.switch_to.active_element.send_keys(Keys.TAB)
        here = page.switch_to.active_element
        stops.append(here.get_attribute("aria-label") or here.text)
        if stops[-1].startswith("Data of mask_errors") or (
            stops[-1].startswith("mask_errors") and here.tag_name == "button"
        ):
            here.send_keys(Keys.ENTER)
    assert stops[0] == "To the content"
    drawn = [figure for figure in draw_figures(tables.load([ledger]).shown()) if figure.chart]
    assert sum(stop.startswith("Chart: ") for stop in set(stops)) == len(drawn) + 1  # and the differences E2 − E1
    end = time.monotonic() + 10
    while len(list((tmp_path / "saved").glob("mask_errors.*"))) < 3 and time.monotonic() < end:
        time.sleep(0.1)
    assert Image.open(tmp_path / "saved" / "mask_errors.png").size[0] > 300
    assert (tmp_path / "saved" / "mask_errors.svg").read_text().startswith("<svg")
    saved = pd.read_csv(tmp_path / "saved" / "mask_errors.csv")
    drawn = pd.DataFrame(values(charts.mask_errors(tables.load([ledger]).shown())))
    assert np.allclose(saved["mean"], drawn["mean"])
    assert list(saved["series"]) == list(drawn["series"])
