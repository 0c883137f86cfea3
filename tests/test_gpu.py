"""The science on a CUDA device, without Ray. About two minutes on an H100:

    pytest -o addopts= --noconftest -m gpu tests/test_gpu.py

Without `tests/conftest.py` and pytest's options of the project, it needs only what `diffseg/` itself needs, and pytest.
"""

import contextlib
import itertools
import math

import pytest
import torch

from diffseg import data, trial
from diffseg.config import Config
from diffseg.errors import Stopped
from diffseg.training import gradients, step
from diffseg.training.hooks import Hooks
from diffseg.training.loop import train
from diffseg.training.state import start_or_resume

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

SMALL = {
    "data.size": 32,
    "data.train_images": 16,
    "data.test_images": 4,
    "training.steps": 24,
    "training.batch": 8,
    "training.warmup": 4,
    "training.decay": "cosine",
    "training.clip": 1.0,
    "training.log_every": 8,
    "inference.ensemble": 2,
    "inference.timesteps": 4,
    "inference.timestep_images": 4,
}
NETWORKS = {
    "ensemdiff": {"network.width": 32, "network.multipliers": [1, 2]},
    "segdiff": {"network.width": 32, "network.multipliers": [1, 2], "network.rrdb_blocks": 2},
    "medsegdiff": {"network.width": 32, "network.multipliers": [1, 2]},
    "medsegdiff v1": {"network.width": 32, "network.multipliers": [1, 2], "network.version": "v1"},
    "ambdiff": {"network.width": 32, "network.multipliers": [1, 2], "network.blocks": [1, 1], "network.middle": 1},
    "segformer": {"network.encoder": "mit_b0", "network.weights": "none"},
}
CLASSES = {"data.kind": "classes", "data.classes": {"smooth": 1, "grainy": 2}}
DIFFUSIONS = {
    "x0": {"diffusion.target": "x0"},
    "epsilon": {"diffusion.target": "epsilon"},
    "v, min-snr, boundary": {
        "diffusion.target": "v",
        "diffusion.weighting": "min-snr",
        "diffusion.schedule": "cosine",
        "diffusion.loss": "boundary",
    },
    "cross-entropy": {
        "diffusion.target": "x0",
        "diffusion.activation": "sigmoid",
        "diffusion.loss": "dice-cross-entropy",
    },
    "learnt variance and weighting": {
        "diffusion.target": "x0",
        "diffusion.variance": "learned",
        "diffusion.weighting": "learned",
    },
    "self-conditioning": {"diffusion.target": "x0", "diffusion.self_conditioning": True},
    "adaptive density": {"diffusion.target": "x0", "diffusion.density": "adaptive"},
    "dropout": {"diffusion.target": "x0", "network.dropout": 0.1},
    "classes in bits": CLASSES | {"diffusion.target": "x0", "diffusion.coding": "bits", "data.ignore": 9},
    "classes by distances": CLASSES
    | {"diffusion.target": "v", "diffusion.coding": "sdf", "diffusion.loss": "boundary"},
    "classes by softmax": CLASSES
    | {"diffusion.target": "x0", "diffusion.activation": "sigmoid", "diffusion.loss": "dice-cross-entropy"},
}
DENOISING = [name for name in NETWORKS if name != "segformer"]  # which has E1 alone
PRECISIONS = ("float32", "bf16")


def config(network="ensemdiff", experiment=None, **leaves):
    experiment = experiment or ("e2" if network in DENOISING else "e1")
    settings = {"network": network.split()[0], "experiment": experiment} | NETWORKS[network] | SMALL
    if experiment == "e2":
        settings |= {"diffusion.target": "x0", "inference.steps": 3}
    return Config().with_leaves(settings | leaves)


def trained(one, folder, split):
    state = start_or_resume(one, folder, split.device)
    train(one, split, state, folder, lambda state: [], ())
    return state


@pytest.fixture
def eagerly(monkeypatch):
    """A function that makes steps run eagerly from now on."""
    return lambda: monkeypatch.setattr(step, "training_execution", lambda *_: "eager")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("experiment", ["e1", "e2", "e3", "e4"])
@pytest.mark.parametrize("network", DENOISING)
def test_every_experiment_of_every_network_runs(network, experiment, precision, tmp_path):
    one = config(network, experiment, **{"training.precision": precision})
    outcome = trial.run(one, None, tmp_path)
    assert outcome.trial["precision"] == precision
    assert all(math.isfinite(value) for value in outcome.trial.values() if isinstance(value, float))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("diffusion", DIFFUSIONS)
def test_captured_steps_are_eager_steps_bit_for_bit(diffusion, precision, eagerly, tmp_path):
    one = config(**DIFFUSIONS[diffusion], **{"training.precision": precision}).resolved()
    split = data.load(one.data, None).train.to("cuda")
    captured = trained(one, tmp_path / "captured", split)
    eagerly()
    eager = trained(one, tmp_path / "eager", split)
    assert captured.curves == eager.curves
    for name in ("network", "average"):
        ours, theirs = (getattr(state, name).state_dict() for state in (captured, eager))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("network", NETWORKS)
def test_steps_of_every_network_are_captured(network, monkeypatch, tmp_path):
    one, replays = config(network).resolved(), []
    split = data.load(one.data, None).train.to("cuda")
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: (replays.append(graph), replay(graph)))
    trained(one, tmp_path, split)
    assert len(replays) == one.training.steps - step.WARM_UP


@pytest.mark.parametrize("stop", [2, 11, 30])  # before the capture, after it, and while the test images are predicted
@pytest.mark.parametrize("network", NETWORKS)
def test_a_resumed_run_ends_bit_for_bit_as_one_that_was_not_stopped(network, stop, tmp_path):
    one, calls = config(network), itertools.count(1)
    whole = trial.run(one, None, tmp_path / "whole")
    with contextlib.suppress(Stopped):
        trial.run(one, None, tmp_path / "parts", hooks=Hooks(should_stop=lambda: next(calls) == stop))
    parts = trial.run(one, None, tmp_path / "parts")
    assert parts.images == whole.images
    assert parts.timesteps == whole.timesteps


def test_a_checkpoint_of_captured_steps_resumes_on_a_cpu(tmp_path):
    one, calls = config(**{"training.precision": "float32"}).resolved(), itertools.count(1)
    split = data.load(one.data, None).train
    with pytest.raises(Stopped):
        train(one, split.to("cuda"), start_or_resume(one, tmp_path, torch.device("cuda")), tmp_path,
              lambda state: [], (), Hooks(should_stop=lambda: next(calls) == 11))  # fmt: skip
    assert trained(one, tmp_path, split.to("cpu")).step == one.training.steps


def test_a_batch_that_does_not_fit_is_halved_and_ends_eagerly(monkeypatch, tmp_path):
    one, calls = config().resolved(), itertools.count(1)
    split = data.load(one.data, None).train.to("cuda")
    backpropagate = gradients.backpropagate

    def short(*arguments):
        if next(calls) == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return backpropagate(*arguments)

    monkeypatch.setattr(gradients, "backpropagate", short)
    state = trained(one, tmp_path, split)
    assert (state.step, state.micro_batch) == (one.training.steps, one.training.batch // 2)


def test_memory_too_short_for_a_capture_ends_eagerly(monkeypatch, tmp_path, eagerly):
    one = config().resolved()
    split = data.load(one.data, None).train.to("cuda")
    monkeypatch.setattr(
        step, "backpropagate", lambda *_: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    )
    short = trained(one, tmp_path / "short", split)
    eagerly()
    eager = trained(one, tmp_path / "eager", split)
    assert short.curves == eager.curves


def test_two_trials_share_a_card(tmp_path):
    """Each in half of its memory, one after the other in this process."""
    torch.cuda.set_per_process_memory_fraction(0.5)
    try:
        for seed in (0, 1):
            assert trial.run(config(seed=seed), None, tmp_path / str(seed)).trial["iou"] > 0
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
