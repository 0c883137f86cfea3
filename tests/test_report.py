"""Tables, charts and the report against a ledger whose numbers are known; and the page in a real browser (slow)."""

import io
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis import charts, tables
from analysis.report import write
from diffseg.config import Config
from diffseg.errors import UserError
from studies.ledger import Ledger
from studies.study import Study, Trial, trial_name
from studies.worker import Order, _row

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


def attempt(config, trial, status="complete", error=None):
    import datetime

    order = Order(
        store="s",
        study="study",
        trial=trial,
        attempt=1,
        config=config.canonical(),
        root=None,
        cpus=1,
        gpus=0,
        stop_file="",
        scratch="",
        commit="0123456789abcdef",
        dirty=False,
    )
    row = _row(order, status, error, datetime.datetime.now(datetime.UTC)) | {"study": "study", "seconds": 60.0}
    if status == "failed":
        return {"trials": [row]}
    row |= {"device": "cpu", "parameters": 1000, "train_images": 10, "test_images": 4, "data_digest": "abc"}
    found = {"curves": [{"step": step, "metric": "loss", "value": 1 / step} for step in (10, 50, 100)]}
    if config.experiment in ("e1", "e2"):
        row |= {"iou": iou_of(config), "dice": 0.9, "ece": 0.02 + 0.001 * config.seed, "brier": 0.05, "nll": 0.2}
        found["calibration"] = [
            {"bin": b, "count": 10 * (b + 1), "confidence": b / 10 + 0.05, "accuracy": b / 10} for b in range(10)
        ]
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


def test_table1_is_means_and_deviations_over_seeds(found):
    rows = tables.table1(found)
    assert len(rows) == 4  # two data sets, two targets of E2
    for row in rows.to_dict("records"):
        offset = 0.02 if row["variant_e2"] == "ε" else 0
        expected = 100 * np.array([0.85 + 0.01 * seed - offset for seed in SEEDS])
        assert row["iou_e2"] == pytest.approx(expected.mean())
        assert row["iou_sd_e2"] == pytest.approx(expected.std(ddof=1))
        assert row["iou_difference"] == pytest.approx(expected.mean() - row["iou_e1"])
        assert row["ece_e1"] == pytest.approx(0.021)
        assert row["seeds_e1"] == row["seeds_e2"] == 3
        assert row["images"] == 4
        assert row["variant_e1"] == ""


def test_half_maxima_and_agreements_are_those_of_the_known_curves(found):
    halves = tables.half_maxima(tables.errors(found, ["e3"], "mask_error")).set_index("dataset")["t"]
    assert halves["big"] == pytest.approx(0.4)
    assert halves["small"] == pytest.approx(0.2)
    agreed = tables.agreements(tables.errors(found, ["e2", "e3"], "mask_error"))
    assert set(agreed["t"].round(6)) == {0.5}
    assert set(agreed["e2_end"]) == {0.3}
    assert set(agreed["e3_end"]) == {1.0}


def test_fingerprints_are_those_of_the_known_curves(found):
    """The error rises in proportion to t, and so to −λ = 20 t − 10, up to t = 0.8 or 0.4; 1 − Dice was not measured."""
    rows = {(row["dataset"], row["fingerprint"].kind): row["fingerprint"] for row in tables.fingerprints(found)}
    assert set(rows) == {(dataset, kind) for dataset in DATASETS for kind in ("mask-error", "entropy-rate")}
    for dataset, end in (("big", 0.8), ("small", 0.4)):
        one = rows[dataset, "mask-error"]
        assert one.level(0.5) == pytest.approx(10 - 20 * (end + 0.05) / 2, abs=0.3)
        assert one.derivative[one.t < end - 0.1] == pytest.approx(0.05 / end, rel=0.05)
        assert one.derivative[one.t > end + 0.1] == pytest.approx(0, abs=0.002)
    drawn = values(charts.fingerprint_weights(found))
    assert {row["kind"] for row in drawn} == {"mask-error", "entropy-rate"}
    assert max(row["weight"] for row in drawn) == 1


def values(chart):
    """The rows that a chart draws, from its specification."""
    spec = chart.to_dict()
    return [row for rows in spec["datasets"].values() for row in rows]


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
        rows = tables.table1(tables.load([several]))
        assert len(rows) == 5 * 2
        assert set(rows["variant_e1"]) == {"one network", "deep ensemble of 3"}
        assert set(rows["seeds_e1"]) == {1}

    def test_the_error_with_the_image_is_compared_with_that_of_the_same_network(self, several):
        found = tables.load([several])
        agreed = tables.agreements(tables.errors(found, ["e2", "e3"], "mask_error"))
        assert sorted(agreed["series"]) == [f"E2 diffusion, {name}" for name in ("ensemdiff", "medsegdiff", "segdiff")]
        halves = tables.half_maxima(tables.errors(found, ["e3"], "mask_error"))
        assert sorted(halves["network"]) == ["ensemdiff", "medsegdiff", "segdiff"]

    def test_no_two_series_look_alike(self, several):
        spec = charts.reliability(tables.load([several])).to_dict()
        scales = [
            layer["encoding"][channel]["scale"]
            for channel in ("color", "shape")
            for layer in spec["spec"]["layer"]
            if "scale" in layer["encoding"].get(channel, {}) and layer["mark"]["type"] == "point"
        ]
        looks = list(zip(*(scale["range"] for scale in scales), strict=True))
        assert len(looks) == len(set(looks)) == 13

    def test_the_page_names_networks_and_baselines(self, several, tmp_path):
        page = " ".join(write([several], tmp_path / "report.html").read_text().split())
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
    fingerprint = [row for row in values(charts.fingerprints(found)) if "experiment" in row]
    assert {row["experiment"] for row in fingerprint} == {"e3"}
    assert len(fingerprint) == 2 * len(T)
    weights = pd.DataFrame(values(charts.effective_weights(found)))
    assert set(weights["experiment"]) == {"e2"}
    assert np.allclose(weights["share"], weights["t"] / 0.95)  # of the last point but one: at the last it is infinite
    assert len(weights) == 2 * 2 * (len(T) - 1)
    calibration = pd.DataFrame(values(charts.reliability(found)))
    assert np.allclose(calibration["confidence"] - calibration["accuracy"], 0.05)
    assert (
        calibration["count"].sum() == sum(10 * (b + 1) for b in range(10)) * 3 * 2 * 3
    )  # three seeds, two data sets, E1 and two E2
    assert len(values(charts.learning_curves(found))) == 3 * 2 * 5


@pytest.mark.parametrize(("shift", "scale"), [(0.0, "log"), (0.05, "symlog")])
def test_learning_curves_below_zero_are_drawn(found, shift, scale):
    curves = found.curves.assign(value=found.curves["value"] - shift)
    spec = charts.learning_curves(tables.Tables(**{**vars(found), "curves": curves})).to_dict()
    assert spec["spec"]["encoding"]["y"]["scale"]["type"] == scale


def test_the_words_of_a_variant_tell_settings_apart():
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
        assert tables._value(column, value) == label
    one, other = (tables._value("config_diffusion_profile", text) for text in ("[[0, 1], [1, 2]]", "[[0, 1], [1, 3]]"))
    assert one != other


def test_the_page_is_whole_and_nothing_of_the_users_is_markup(ledger, tmp_path):
    page = write([ledger], tmp_path / "report.html").read_text()
    body, *scripts = re.split(r"<script>", page)
    assert len(scripts) == 2  # Vega and the charts; none came from names or errors
    assert "alert(&#39;x&#39;)" in body
    assert "alert('x')" not in page
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", body)
    assert "default-src 'none'" in body
    assert "30 of 31 trials are complete, 1 failed" in " ".join(body.split())
    assert "diffseg run study.toml" in body
    assert "85.00" in page or "86.00" in page
    for name in ("mask_errors", "losses", "fingerprints", "effective_weights", "learning_curves", "reliability"):
        assert f'id="{name}"' in body
    specs = re.search(r"const figures = \{(.*)\};", scripts[1], re.DOTALL).group(1)
    for name in ("mask_errors", "losses"):
        start = specs.index(f"{name}: ") + len(name) + 2
        assert json.JSONDecoder().raw_decode(specs[start:])[0]["$schema"]


def test_a_half_done_study_says_what_is_missing(tmp_path):
    ledger = ledger_of(tmp_path, configs(("e1",)))
    page = write([ledger], tmp_path / "report.html").read_text()
    assert "this needs complete trials of E3" in page
    assert "this needs complete trials of E2 or E3" in page
    assert "80.00" in page or "81.00" in page


def test_a_study_of_failures_alone_and_an_empty_one(tmp_path):
    with pytest.raises(UserError, match="no trial of study has ended"):
        write([Ledger(str(tmp_path), "study")], tmp_path / "report.html")
    ledger = ledger_of(tmp_path, [], configs(("e1",)))
    assert "6 failed" in " ".join(write([ledger], tmp_path / "report.html").read_text().split())


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_the_page_in_a_browser(ledger, tmp_path, width, dark):
    """No console error, no request, every chart drawn, nothing wider than the window."""
    selenium = pytest.importorskip("selenium.webdriver")
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("needs chromium and chromedriver")
    path = write([ledger], tmp_path / "report.html")
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
    browser = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    try:
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]},
        )
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 2000, "deviceScaleFactor": 1, "mobile": False},
        )
        browser.get(path.as_uri())
        drawn = browser.execute_async_script(
            "const done = arguments[0]; setTimeout(() => done([...document.querySelectorAll('.chart')].map("
            "c => c.querySelector('svg.marks')?.getBoundingClientRect().width || 0)), 4000)"
        )
        assert len(drawn) == 5
        assert all(size > 100 for size in drawn)
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
        messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        assert [url for url in urls if not url.startswith(("data:", "blob:", path.as_uri()))] == []
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        browser.quit()
