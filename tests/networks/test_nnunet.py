"""nnU-Net driven by a Config: learning, exact resume on a CPU, and the plan without data."""

import dataclasses
import itertools
import json
import os
import shutil
import types

import numpy as np
import pytest
import torch
from finished import digests
from PIL import Image

from diffseg import trial
from diffseg.config import Config, Data, NNUNet
from diffseg.data.scaling import Scaling
from diffseg.errors import Stopped, UserError
from diffseg.labels.classes import Classes
from diffseg.networks.nnunet import training
from diffseg.networks.nnunet.dataset import NAME, write_raw
from diffseg.networks.nnunet.library import environment
from diffseg.networks.nnunet.network import NNUNetImplementation
from diffseg.networks.nnunet.plan import plan_network
from diffseg.prediction import new_images as predict
from diffseg.training import checkpoints
from diffseg.training.hooks import Hooks
from diffseg.training.parallel import Workers

LEAVES = {
    "experiment": "e1",
    "network": "nnunet",
    "network.epochs": 2,
    "network.iterations": 4,
    "data.size": 32,
    "data.train_images": 12,
    "data.test_images": 4,
    "inference.examples": 1,
}


def stop_after(steps):
    calls = itertools.count(1)
    return Hooks(should_stop=lambda: next(calls) >= steps)


@pytest.fixture
def process_group(tmp_path):
    """A process group, as Ray Train's workers have."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class StandInTrainer:
    """What our loop asks of nnunetv2's trainer, on a network of one weight per channel."""

    grad_scaler = None

    def __init__(self, settings, seed, device):
        torch.manual_seed(seed)
        self.network, self.device = torch.nn.Conv2d(3, 1, 1), device
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=settings.learning_rate, momentum=0.9)
        self.lr_scheduler = types.SimpleNamespace(step=lambda epoch: None)
        self.set_deep_supervision_enabled = lambda on: None
        self.get_dataloaders = lambda: (iter(lambda: torch.rand(2, 3, 8, 8), None), iter(()))

    def train_step(self, images):
        self.optimizer.zero_grad()
        loss = (self.network(images) - images[:, :1]).square().mean()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item()}

    def predict_single_npy_array(self, pixels, *others):
        found = self.network(torch.from_numpy(pixels / 255)[:, 0]).sigmoid().detach().numpy()
        return None, np.stack([1 - found, found])


@pytest.fixture
def stand_in(monkeypatch):
    """Nothing of nnunetv2 runs: neither its preparation, nor its trainer, nor its predictor."""
    monkeypatch.setattr(training, "prepare", lambda split, work, classes: work.mkdir(parents=True))
    monkeypatch.setattr(training, "make_trainer", StandInTrainer)
    monkeypatch.setattr(training, "make_predictor", lambda trainer, settings: trainer)


@pytest.mark.usefixtures("stand_in")
def test_the_loop_over_epochs_resumes_exactly_and_its_end_predicts(tmp_path):
    config = Config().with_leaves(LEAVES)
    whole = trial.run(config, None, tmp_path / "whole", device="cpu")
    with pytest.raises(Stopped, match="stopped in epoch 2 of 2"):
        trial.run(config, None, tmp_path / "parts", device="cpu", hooks=stop_after(6))
    parts = trial.run(config, None, tmp_path / "parts", device="cpu")
    assert [row["step"] for row in parts.curves if row["metric"] == "loss"] == [4, 8]
    assert parts.curves == whole.curves
    assert parts.images == whole.images
    assert {"steps": 8, "parameters": 4, "micro_batch": None}.items() <= parts.trial.items()
    assert "precision" not in parts.trial  # nnunetv2 decides itself
    Image.new("RGB", (40, 50), (200, 100, 100)).save(tmp_path / "new.png")
    scaling = Scaling(**json.loads(parts.trial["scaling"]))
    written = predict.predict_files(
        config, tmp_path / "parts", scaling, [tmp_path / "new.png"], tmp_path / "out", "cpu"
    )
    assert {Image.open(path).size for path in written} == {(40, 50)}


@pytest.mark.usefixtures("stand_in")
def test_several_workers_are_refused(tmp_path):
    with pytest.raises(UserError, match="nnunet trains on one worker, not on 2: give --workers 1"):
        NNUNetImplementation(NNUNet()).fit(
            Config(experiment="e1", network=NNUNet()), tmp_path, types.SimpleNamespace(workers=Workers(0, 2))
        )


def test_the_environment_is_restored(tmp_path, monkeypatch):
    names = ("nnUNet_raw", "nnUNet_results", "nnUNet_n_proc_DA")
    monkeypatch.setenv(names[0], "/before")
    monkeypatch.delenv(names[2], raising=False)
    before = {name: os.environ.get(name) for name in names}
    with environment(tmp_path, workers=0, results=tmp_path / "results"):
        assert [os.environ[name] for name in names] == [str(tmp_path / "raw"), str(tmp_path / "results"), "0"]
    assert {name: os.environ.get(name) for name in names} == before


@pytest.mark.usefixtures("process_group")
@pytest.mark.slow
def test_a_trial_is_trained_by_nnunetv2_and_resumed_after_a_stop(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.delenv("nnUNet_raw", raising=False)
    monkeypatch.setattr("nnunetv2.utilities.utils.Pool", None)  # it forks, which hangs now and then beside threads
    config = Config().with_leaves(LEAVES)
    with pytest.raises(Stopped, match="epoch 2 of 2"):
        trial.run(config, None, tmp_path, device="cpu", hooks=stop_after(6))
    assert checkpoints.load(tmp_path, "cpu")["step"] == 4
    outcome = trial.run(config, None, tmp_path, device="cpu")
    assert [row["step"] for row in outcome.curves if row["metric"] == "loss"] == [4, 8]
    assert outcome.trial["parameters"] == sum(p.numel() for p in plan_network(32, 12)[0].parameters())
    assert 0 <= outcome.trial["iou"] <= 1
    assert len(outcome.images) == 4 * len({row["metric"] for row in outcome.images})
    assert {row["kind"] for row in outcome.examples} == {"image", "truth", "mean", "sd"}
    assert "Please cite the following paper" in caplog.text  # its output is logged, not printed
    checkpoints.keep_weights(tmp_path, NNUNet.training_files)
    kept = {
        path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix in (".pt", ".png", ".b2nd", ".npz")
    }
    assert {name for name in kept if name.endswith(".pt")} == {outcome.trial["checkpoint"]}
    assert all("000000" in name for name in kept), kept  # the first case alone, whose format nnunetv2 recognises
    assert trial.run(config, None, tmp_path, device="cpu").images == outcome.images
    Image.new("RGB", (40, 50), (200, 100, 100)).save(tmp_path / "new.png")
    scaling = Scaling(**json.loads(outcome.trial["scaling"]))
    before = digests(tmp_path)
    written = predict.predict_files(config, tmp_path, scaling, [tmp_path / "new.png"], tmp_path / "out", "cpu")
    assert {Image.open(path).size for path in written} == {(40, 50)}
    shutil.rmtree(tmp_path / "out")
    assert digests(tmp_path) == before
    plans = tmp_path / "nnunet/preprocessed" / NAME / "nnUNetPlans.json"
    plans.write_text(plans.read_text()[:100])
    with pytest.raises(UserError, match="cannot be used"):
        predict.predict_files(config, tmp_path, scaling, [tmp_path / "new.png"], tmp_path / "out", "cpu")
    (tmp_path / outcome.trial["checkpoint"]).unlink()
    with pytest.raises(UserError, match="has no checkpoint"):
        predict.predict_files(config, tmp_path, scaling, [tmp_path / "new.png"], tmp_path / "out", "cpu")


@pytest.mark.slow
def test_it_learns_and_a_resumed_training_equals_an_uninterrupted_one(tmp_path):
    config = Config().with_leaves(LEAVES | {"network.epochs": 4, "network.iterations": 25, "data.train_images": 60})
    whole = trial.run(config, None, tmp_path / "whole", device="cpu")
    assert whole.trial["iou"] > 0.5
    with pytest.raises(Stopped):
        trial.run(config, None, tmp_path / "parts", device="cpu", hooks=stop_after(60))
    parts = trial.run(config, None, tmp_path / "parts", device="cpu")
    ends = [checkpoints.load(tmp_path / name, "cpu")["network"] for name in ("whole", "parts")]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    assert parts.images == whole.images


def test_the_plan_without_data_equals_that_of_nnunetv2():
    """nnunetv2 itself, on 40 images of 64 px: 7.77 million parameters, batch 2."""
    network, batch = plan_network(64, 40)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(7.77e6, rel=0.01)
    assert batch == 2


@pytest.mark.parametrize("cases", [False, True])
def test_images_are_normalised_by_their_case(cases, tmp_path):
    """nnunetv2 reads pixels, which it normalises itself, or numbers that are normalised by their whole volume."""
    from conftest import split_of
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO

    images = [torch.randint(0, 255, (1, 16, 16), dtype=torch.uint8) for _ in range(2)]
    split = split_of(images, [torch.ones(1, 16, 16, dtype=torch.uint8)] * 2)
    if cases:
        split = dataclasses.replace(split, case_statistics=torch.tensor([[[0.5], [0.2]], [[-0.5], [2.0]]]))
    write_raw(split, tmp_path, Classes.of(Data()))
    description = json.loads((tmp_path / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "noNorm" if cases else "channel 0"}
    for k, case in enumerate(description["dataset"].values()):
        found, _ = NaturalImage2DIO().read_images([tmp_path / name for name in case["images"]])
        expected = split.prepare_inputs(images[k][None], torch.tensor([k]))[0, :1] if cases else images[k].float()
        assert torch.allclose(torch.from_numpy(found[:, 0]), expected, atol=1e-6)
        assert NaturalImage2DIO().read_seg(tmp_path / case["label"])[0].min() == 1


@pytest.mark.slow
def test_a_trial_normalises_by_case(tmp_path):
    config = Config().with_leaves(LEAVES | {"network.epochs": 1, "network.iterations": 2, "data.normalise": "case"})
    outcome = trial.run(config, None, tmp_path, device="cpu")
    assert 0 <= outcome.trial["iou"] <= 1
    plans = json.loads((tmp_path / "nnunet/preprocessed/Dataset001_diffseg/nnUNetPlans.json").read_text())
    assert plans["configurations"]["2d"]["normalization_schemes"] == ["NoNormalization"] * 3
