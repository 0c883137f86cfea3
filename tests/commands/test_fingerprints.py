"""`fingerprint` and `recommend` of masks of several classes."""

import io
import json
import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import split_of
from PIL import Image
from rich.console import Console
from test_class_fingerprints import planted_classes

from diffseg import data
from diffseg.config import Config
from diffseg.data import Dataset
from diffseg.diffusion.combinations import find_problems
from diffseg.fingerprint import quick as patches
from diffseg.fingerprint.classes import compute_fingerprints
from studies.commands.program import main
from studies.commands.tables.estimates import fingerprint_table
from studies.definition.reading import read_study
from studies.search.recommendation import recommend

NAMES = {"whole organ": [1, 2], "T1.2 core": 2, "never": 3}
SETTINGS = [
    "synthetic-large", "data.size=16", f"data.classes={json.dumps(NAMES)}", "data.regions=true", "inference.timesteps=20",
]  # fmt: skip


def draw_masks(count, seed):
    """Return masks [H, W] of an organ anywhere, 2 in its core of two pixels, 1 elsewhere in it."""
    masks = np.zeros((count, 16, 16), np.uint8)
    for mask, (top, left) in zip(masks, np.random.default_rng(seed).integers(0, 8, (count, 2)), strict=True):
        mask[top : top + 8, left : left + 8] = 1
        mask[top + 4, left + 3 : left + 5] = 2
    return [torch.from_numpy(mask)[None] for mask in masks]


@pytest.fixture
def call(monkeypatch, tmp_path):
    """A function that calls the program on small masks of two nested classes and of one that does not occur."""
    for name in ("EXAMPLES", "MASKS", "QUERIES", "WINDOWS"):
        monkeypatch.setattr(patches, name, 512)
    train, test = (
        split_of([one.expand(3, -1, -1) for one in some], some) for some in (draw_masks(64, 0), draw_masks(64, 1))
    )
    monkeypatch.setattr(data, "load", lambda *_, **__: Dataset("synthetic-large", "digest", train, test))
    monkeypatch.chdir(tmp_path)

    def run(command, *arguments, status=0):
        result = CliRunner().invoke(main, [command, *SETTINGS, *arguments, "--store", "store"])
        assert result.exit_code == status, result.output
        return result.output if status else result.stdout

    return run


def test_all_classes_are_shown_with_a_line_each_and_their_order(call):
    output = call("fingerprint", "--quick")
    lines = output.splitlines()
    assert lines[0] == "Mean over the classes:"
    (core,) = [line for line in lines if line.startswith("T1.2 core  ")]
    (whole,) = [line for line in lines if line.startswith("whole organ  ")]
    (never,) = [line for line in lines if line.startswith("never  ")]
    assert len(core.split("(")) == len(whole.split("(")) == 4
    assert "no rise with the noise" in never
    assert "From noise to mask, whole organ is decided first" in output
    assert "T1.2 core is decided last" in output


def test_json_has_all_classes(call):
    found = json.loads(call("fingerprint", "--quick", "--json"))
    assert found["class"] == "all"
    assert list(found["classes"]) == list(NAMES)
    assert found["classes"]["whole organ"]["half"] < found["classes"]["T1.2 core"]["half"]
    assert "half" not in found["classes"]["never"]
    mean = np.mean([one["error"] for one in found["classes"].values()], axis=0)
    assert found["error"] == pytest.approx(mean.tolist(), abs=1e-6)
    assert found["order"].startswith("From noise to mask")


@pytest.mark.slow
def test_one_class_is_shown_alone(call):
    every = json.loads(call("fingerprint", "--quick", "--json"))
    alone = json.loads(call("fingerprint", "--quick", "--json", "--class", "T1.2 core"))
    assert alone == every["classes"]["T1.2 core"] | {"class": "T1.2 core"}
    assert alone == json.loads(call("fingerprint", "--quick", "--json", "diffusion.fingerprint_class=T1.2 core"))
    lines = call("fingerprint", "--quick", "--class", "T1.2 core").splitlines()
    assert lines[:2] == ["Of the class T1.2 core:", alone["words"][0]]


def test_classes_measured_by_e3_are_shown_and_recommended_from(call, monkeypatch):
    """The E3 trial of other classes, which has ended in the same study, is not taken for theirs."""

    def run(study, ledger, resources, address=None, quiet=False):
        ledger.define(study.definition())
        for trial in study.trials:
            if trial.name not in ledger.last_attempts():
                late = -2.0 if "never" in trial.config.data.class_names else -9.0
                middles = dict(zip(trial.config.data.class_names, (-6.0, late, None), strict=False))
                ledger.write(
                    trial.name, 1, {"trials": [{"status": "complete"}], "timesteps": planted_classes(**middles)}
                )
        return True

    monkeypatch.setattr("studies.engine.session.run", run)
    other = json.loads(call("fingerprint", "--json", 'data.classes={"whole organ": [1, 2], "T1.2 core": 2}'))
    found = json.loads(call("fingerprint", "--json"))
    assert list(other["classes"]) == ["whole organ", "T1.2 core"]
    assert other["classes"]["T1.2 core"]["half"] == pytest.approx(-9, abs=0.2)
    assert found["classes"]["T1.2 core"]["half"] == pytest.approx(-2, abs=0.2)
    assert found["order"].startswith("From noise to mask, whole organ is decided first")
    alone = json.loads(call("fingerprint", "--json", "--class", "T1.2 core"))
    assert alone["half"] == found["classes"]["T1.2 core"]["half"]
    output = call("recommend", "--class", "T1.2 core", "--output", "found.toml")
    assert "From the fingerprint measured by E3, of the class T1.2 core. Run it" in output


@pytest.mark.sampled(2)
@pytest.mark.parametrize("command", ["fingerprint", "recommend"])
@pytest.mark.parametrize(
    ("name", "words"), [("core", "allowed are whole organ, T1.2 core, never"), ("never", "is 0 at all 20 noise levels")]
)
def test_a_class_that_cannot_be_used_is_refused_in_one_sentence(command, name, words, call):
    more = ["--quick"] if command == "fingerprint" else []
    output = call(command, "--class", name, *more, status=2)
    *progress, sentence = output.splitlines()
    assert words in sentence
    assert all(line.startswith("estimating") for line in progress)


@pytest.mark.parametrize(
    ("arguments", "source"), [([], "the mean over the classes"), (["--class", "T1.2 core"], "of the class T1.2 core")]
)
def test_a_recommended_study_has_the_classes_and_says_whose_curve_it_follows(arguments, source, call):
    coding = ["diffusion.coding=sdf", "diffusion.distance_limit=4.0"]
    output = call("recommend", *arguments, *coding, "--output", "found.toml")
    assert f"From the fingerprint estimated without training, {source}. Run it" in output
    (one,) = read_study("found.toml", {}, {}).trials
    assert dict(one.config.data.classes) == {"whole organ": (1, 2), "T1.2 core": (2,), "never": (3,)}
    assert one.config.data.regions
    assert (one.config.diffusion.coding, one.config.diffusion.distance_limit) == ("sdf", 4.0)
    assert one.config.diffusion.density == "profile"
    with open("found.toml", encoding="utf-8") as file:
        text = file.read()
    assert source in text.splitlines()[0]
    assert 'data.classes = { "whole organ" = [1, 2], "T1.2 core" = 2, "never" = 3 }' in text


def test_the_mean_and_a_class_recommend_different_settings(call):
    for name, more in (("mean", []), ("core", ["--class", "T1.2 core"])):
        call("recommend", *more, "--output", f"{name}.toml")
    mean, core = (read_study(f"{name}.toml", {}, {}).trials[0].config.diffusion for name in ("mean", "core"))
    assert mean.input_scale < core.input_scale


def test_a_recommended_study_says_its_size_and_which_flips_the_images_allow(tmp_path, monkeypatch):
    """All lesions lie at the left: mirrored, the images would be ones that do not occur."""
    draw = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / "mine" / kind).mkdir(parents=True)
    for number in range(16):
        image, mask = draw.integers(0, 60, (24, 24), np.uint8), np.zeros((24, 24), np.uint8)
        mask[6 + number % 4 : 14 + number % 4, 2:9] = 255
        Image.fromarray(image + mask // 2).save(tmp_path / "mine/images" / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / "mine/masks" / f"{number}.png")
    for name in ("EXAMPLES", "MASKS", "QUERIES", "WINDOWS"):
        monkeypatch.setattr(patches, name, 512)
    monkeypatch.chdir(tmp_path)
    arguments = ["recommend", "mine", "--data", f"mine={tmp_path / 'mine'}", "data.size=16", "inference.timesteps=20"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "mine.toml").read_text(encoding="utf-8")
    assert "data.size = 16" in text
    assert "the fingerprint is that of masks at 16 px" in result.stdout
    assert 'data.augment.flips = "none"' in text or 'data.augment.flips = "vertical"' in text
    assert "recognise" in result.stdout
    result = CliRunner().invoke(main, [*arguments, "data.augment.flips=symmetries"])
    assert 'data.augment.flips = "symmetries"' in (tmp_path / "mine.toml").read_text(encoding="utf-8")
    assert "recognise" not in result.stdout


@pytest.mark.parametrize("middle", [-9.0, -6.0, -3.0, -0.5])
def test_a_recommendation_is_one_that_plan_does_not_warn_of(middle):
    """Masks that little noise hides would let sampling begin where large ones still show through."""
    (found,) = compute_fingerprints([planted_classes(one=middle)], "mask-error", ("one",)).values()
    settings = {key: value for choice in recommend(found) for key, value in choice.settings.items()}
    assert find_problems(Config().with_leaves({"experiment": "e2"} | settings).resolved()) == []
    (reason,) = [choice.reason for choice in recommend(found) if "diffusion.target" in choice.settings]
    assert "no smaller" in reason or int(re.search(r"(\d+) times", reason)[1]) >= 2


@pytest.mark.parametrize("width", [80, 60])
def test_it_fits_the_width_of_the_terminal(width):
    names = ("a" * 40, "whole tumour", "b")
    rows = planted_classes(**dict(zip(names, (-8.0, -2.0, None), strict=True)))
    console = Console(width=width, file=io.StringIO())
    console.print(fingerprint_table(compute_fingerprints([rows], "mask-error", ("all", *names))))
    output = console.file.getvalue()
    assert "…" not in output
    assert max(map(len, output.splitlines())) <= width
    assert "whole tumour" in output
