"""A network that is added by a folder, a line of the registry and presets alone: tests/toynet, the manual's worked example."""

import json

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from toynet.settings import ToyNet

from diffseg import trial
from diffseg.config import NETWORKS, Config, presets
from diffseg.config.describe import settings
from diffseg.data.scaling import Scaling
from diffseg.errors import ConfigError
from diffseg.networks import registry
from diffseg.networks.protocol import Dimensions
from diffseg.prediction.new_images import predict_files
from studies.commands.program import main
from studies.planning.estimate import estimate_cost

SMALL = {
    "data.size": 16,
    "data.train_images": 12,
    "data.test_images": 4,
    "training.batch": 4,
    "training.precision": "float32",
    "training.log_every": 2,
    "inference.ensemble": 2,
    "inference.timesteps": 4,
    "inference.timestep_images": 4,
    "inference.examples": 1,
}


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(NETWORKS, "toynet", ToyNet)


def toy(experiment, **leaves):
    return Config().with_leaves({"network": "toynet", "preset": "debug/one", "experiment": experiment} | SMALL | leaves)


@pytest.mark.parametrize("experiment", ["e1", "e2", "e3", "e4"])
def test_it_runs_every_experiment(experiment, tmp_path):
    outcome = trial.run(toy(experiment), None, tmp_path, device="cpu")
    assert outcome.trial["steps"] == 6
    assert outcome.trial["parameters"] == estimate_cost(toy(experiment).resolved()).parameters
    assert ("iou" in outcome.trial) == (experiment in ("e1", "e2"))
    assert (tmp_path / outcome.trial["checkpoint"]).exists()


def test_it_predicts_new_images(tmp_path):
    config = toy("e2").resolved()
    outcome = trial.run(config, None, tmp_path, device="cpu")
    Image.new("RGB", (16, 16), "red").save(tmp_path / "new.png")
    scaling = Scaling(**json.loads(outcome.trial["scaling"]))
    assert predict_files(config, tmp_path, scaling, [tmp_path / "new.png"], tmp_path / "out", "cpu")


def test_its_cost_counts_its_own_convolutions():
    config = toy("e2").resolved()
    module = config.network.implementation().build(Dimensions(image_channels=3))
    assert isinstance(module, torch.nn.Module)
    wide = toy("e2", **{"network.width": 64}).resolved()
    assert 0 < estimate_cost(config).flops < estimate_cost(wide).flops
    assert estimate_cost(config).parameters == sum(parameter.numel() for parameter in module.parameters())


def test_a_study_of_it_is_planned(tmp_path):
    words = ["plan", "quickstart", "network=toynet", "--store", str(tmp_path), "--json"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    trials = json.loads(result.output)["trials"]
    assert any("toynet" in row["trial"] for row in trials)
    assert all(row["seconds"][1] > row["seconds"][0] > 0 for row in trials)


def test_its_settings_and_presets_are_listed_and_checked():
    assert presets.names("toynet") == ["published/one", "debug/one"]
    assert registry.describe()[-1].summary == ToyNet.summary
    (row,) = (row for row in settings("network.width") if row.networks == ("toynet",))
    assert (row.default, row.description) == (16, "Channels of the hidden layers.")
    assert toy("e2").leaves()["network.width"] == 8
    with pytest.raises(ConfigError, match=r"network\.width: got 0"):
        toy("e2", **{"network.width": 0})
    with pytest.raises(ConfigError, match=r"unknown configuration key .network\.depth"):
        toy("e2", **{"network.depth": 3})
