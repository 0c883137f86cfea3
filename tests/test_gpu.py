"""The science on a CUDA device, without Ray. About two minutes on an H100:

    pytest -o addopts= --noconftest -m gpu tests/test_gpu.py

DIFFSEG_REFERENCE may name the folder of outputs of the published networks. Without `tests/conftest.py` and pytest's options of
the project, it needs only what `diffseg/` itself needs, and pytest.
"""

import contextlib
import copy
import itertools
import math
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_networks import CLASSES, NETWORKS

from diffseg import data, trial
from diffseg.config import Config
from diffseg.data import splits
from diffseg.diffusion.samplers import SAMPLERS
from diffseg.errors import Stopped
from diffseg.networks.group_norm import GroupNorm
from diffseg.prediction import ensembles, noise_errors
from diffseg.prediction.capture import CapturedCalls
from diffseg.prediction.philox import compute_windows, normal_windows
from diffseg.training import gradients, step
from diffseg.training.execution import choose_device
from diffseg.training.hooks import Hooks
from diffseg.training.loop import train
from diffseg.training.state import initialise_network, start_or_resume

sys.path.insert(0, str(Path(__file__).parent / "networks"))
from test_networks import GOLDEN, golden, load_published  # which lies in its room

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
    "online curves": {"diffusion.target": "flow", "diffusion.density": "online", "diffusion.weighting": "online"},
    "recycling": {"diffusion.target": "x0", "diffusion.recycling": 0.5, "diffusion.input_perturbation": 0.1},
    "noisier estimates": {
        "diffusion.target": "edm",
        "diffusion.self_conditioning": True,
        "diffusion.estimate": "noisier-level",
    },
    "dropout": {"diffusion.target": "x0", "network.dropout": 0.1},
    "classes in bits": CLASSES | {"diffusion.target": "x0", "diffusion.coding": "bits", "data.ignore": 9},
    "classes by distances": CLASSES
    | {"diffusion.target": "v", "diffusion.coding": "sdf", "diffusion.loss": "boundary"},
    "classes by softmax": CLASSES
    | {"diffusion.target": "x0", "diffusion.activation": "sigmoid", "diffusion.loss": "dice-cross-entropy"},
}
SAMPLINGS = {
    **{sampler: {"inference.sampler": sampler} for sampler in SAMPLERS},
    "a grid": {"inference.grid": "log-snr"},
    "scaled noise": {"inference.epsilon_scale": 1.01},
    "self-conditioning": {"diffusion.self_conditioning": True},
    "learned variance": {"diffusion.variance": "learned"},
    "turned views": {"inference.augment": "symmetries"},
    "tiles": {"data.fit": "crop", "data.scale": 2.0},
    "classes in bits": CLASSES | {"diffusion.coding": "bits"},
    "classes by distances": CLASSES | {"diffusion.coding": "sdf"},
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


def test_compiled_blocks_train_as_eager_ones_but_for_rounding(tmp_path):
    settings = {"training.precision": "float32"}
    one, other = (config(**settings, **{"training.compile": compiled}).resolved() for compiled in (True, False))
    split = data.load(one.data, None).train.to("cuda")
    compiled = trained(one, tmp_path / "compiled", split)
    assert compiled.execution == "compiled"
    captured = trained(other, tmp_path / "captured", split)
    ours, theirs = ([row["value"] for row in state.curves if row["metric"] == "loss"] for state in (compiled, captured))
    assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("network", NETWORKS)
def test_steps_of_every_network_are_captured(network, monkeypatch, tmp_path):
    one, replays = config(network).resolved(), []
    split = data.load(one.data, None).train.to("cuda")
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: (replays.append(graph), replay(graph)))
    trained(one, tmp_path, split)
    assert len(replays) == one.training.steps - step.WARM_UP


@pytest.mark.parametrize(
    ("network", "stop", "more"),
    [  # steps: before the capture, after it, and while the test images are predicted
        *((network, stop, {}) for network in NETWORKS for stop in (2, 11, 30)),
        ("ensemdiff", 11, {"training.compile": True}),
    ],
)
def test_a_resumed_run_ends_bit_for_bit_as_one_that_was_not_stopped(network, stop, more, tmp_path):
    one, calls = config(network, **more), itertools.count(1)
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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", GOLDEN)
def test_outputs_equal_those_of_the_published_networks(name, layout):
    """In float32, whose rounding to TF32 is off, and in bf16 within two percent, of root mean squares."""
    if not os.environ.get("DIFFSEG_REFERENCE"):
        pytest.skip("DIFFSEG_REFERENCE is not set")
    device = choose_device("cuda")
    state, expected = golden(Path(os.environ["DIFFSEG_REFERENCE"]), name)
    network = GOLDEN[name]().eval()
    load_published(network, state)
    network = network.to(device).to(memory_format=layout)
    inputs = [expected[key].to(device) for key in ("x_t", "t", "image")]
    activate = torch.tanh if name == "ambdiff" else lambda output: output
    with torch.inference_mode():
        output = activate(network(*inputs)).cpu()
        with torch.autocast("cuda", torch.bfloat16):
            rough = activate(network(*inputs).float()).cpu()
    assert (output - expected["output"]).abs().max() <= 1e-4
    assert (rough - expected["output"]).square().mean() <= 0.02**2 * expected["output"].square().mean()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(("channels", "side"), [(32, 64), (96, 31), (512, 8)])
def test_group_normalisation_computes_what_torch_computes(channels, side, silu, precision):
    dtype = {"float32": torch.float32, "bf16": torch.bfloat16}[precision]
    tolerance = {"float32": 3e-5, "bf16": 1e-2}[precision]
    torch.manual_seed(0)
    module = GroupNorm(32, channels).cuda()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    x = (5 + 3 * torch.randn(4, channels, side, side, device="cuda")).to(dtype)
    gradient = torch.randn_like(x)
    exact = copy.deepcopy(module).double()
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    found = module(ours, silu)
    wanted = torch.nn.GroupNorm.forward(exact, theirs)
    wanted = F.silu(wanted) if silu else wanted
    assert found.dtype == dtype
    pairs = [
        (found, wanted),
        *zip(
            torch.autograd.grad(found, [ours, *module.parameters()], gradient),
            torch.autograd.grad(wanted, [theirs, *exact.parameters()], gradient.double()),
            strict=True,
        ),
    ]
    for one, other in pairs:
        torch.testing.assert_close(
            one.double(), other, rtol=tolerance, atol=tolerance * max(1.0, other.abs().mean().item())
        )


@pytest.mark.skipif(find_spec("triton") is None, reason="there is no Triton")
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_kernel_draws_what_its_twin_draws(channels):
    keys, members = torch.tensor([1, 2**62 + 7, 5], device="cuda"), torch.tensor([0, 4, 9], device="cuda")
    corners = torch.tensor([[0, 0], [17, 3], [1000, 64]], device="cuda")
    ours, twin = (draw(keys, members, corners, 3, channels, 40) for draw in (normal_windows, compute_windows))
    torch.testing.assert_close(ours, twin, rtol=0, atol=2e-6)


def predicted(one, network, captured, monkeypatch):
    """Predict twelve images in batches of eight tiles, captured or not; return what is predicted, and the replays."""
    replays, replay = [], torch.cuda.CUDAGraph.replay
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: (replays.append(graph), replay(graph)))
        patch.setattr(ensembles, "captures_predictions", lambda *_: captured)
        if not captured:
            patch.setattr(noise_errors, "CapturedCalls", lambda function, device: function)
        test = data.load(one.data, None).test.to("cuda")
        found = list(ensembles.predict_split(network, test, one))
        errors = noise_errors.measure_noise_errors(network, test, one) if one.experiment == "e2" else []
    return found, errors, len(replays)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("network", "sampling"),
    [
        *((network, None) for network in NETWORKS),
        *(("ensemdiff", sampling) for sampling in SAMPLINGS),
    ],
)
def test_captured_predictions_are_eager_ones_bit_for_bit(network, sampling, precision, monkeypatch):
    leaves = {"data.test_images": 12, "inference.batch": 8, "training.precision": precision}
    one = config(network, **leaves, **(SAMPLINGS[sampling] if sampling else {})).resolved()
    device = choose_device("cuda")
    built = initialise_network(one).eval().to(device).to(memory_format=torch.channels_last)
    for parameter in built.parameters():
        if not parameter.any():  # the published networks start with heads of zero
            torch.nn.init.normal_(parameter, std=0.05)
    captured, errors, replays = predicted(one, built, True, monkeypatch)
    eager, wanted, none = predicted(one, built, False, monkeypatch)
    assert replays > 0
    assert none == 0
    assert errors == wanted
    for ours, theirs in zip(captured, eager, strict=True):
        assert torch.equal(ours.mean, theirs.mean)
        assert torch.equal(ours.masks, theirs.masks)


def test_predictions_do_not_depend_on_the_batch():
    one = config(**{"data.test_images": 6, "training.precision": "float32"}).resolved()
    built = initialise_network(one).eval().cuda()
    test = data.load(one.data, None).test.to("cuda")
    found = [
        list(ensembles.predict_split(built, test, one.with_leaves({"inference.batch": batch}))) for batch in (1, 5, 64)
    ]
    for others in found[1:]:
        for ours, theirs in zip(found[0], others, strict=True):
            torch.testing.assert_close(ours.mean, theirs.mean, rtol=0, atol=1e-4)


def test_calls_that_are_captured_return_what_eager_calls_return():
    calls = CapturedCalls(lambda x, y: (x + y, x * y), torch.device("cuda"))
    for number, length in enumerate((2, 3, 2, 2, 3, 2)):
        x, y = torch.full((length,), float(number), device="cuda"), torch.full((length,), 2.0, device="cuda")
        total, product = calls(x, y)
        assert torch.equal(total, x + y)
        assert torch.equal(product, x * y)
    assert len(calls.graphs) == 2


def test_a_data_set_that_is_larger_than_its_share_is_gathered_on_the_host(monkeypatch, tmp_path):
    one = config()
    on_device = trial.run(one, None, tmp_path / "device")
    monkeypatch.setattr(splits, "DEVICE_SHARE", 0)
    split = data.load(one.data, None).train.to("cuda")
    assert (split.images.values.device.type, split.device.type) == ("cpu", "cuda")
    on_host = trial.run(one, None, tmp_path / "host")
    assert on_host.images == on_device.images
    assert on_host.timesteps == on_device.timesteps


@pytest.mark.skipif(find_spec("nnunetv2") is None, reason="nnU-Net is not installed")
def test_nnunet_trains_and_predicts(tmp_path):
    leaves = {"network": "nnunet", "experiment": "e1", "network.epochs": 2, "network.iterations": 4, "data.size": 64}
    leaves |= {"data.train_images": 16, "data.test_images": 4}
    outcome = trial.run(Config().with_leaves(leaves), None, tmp_path)
    assert 0 <= outcome.trial["iou"] <= 1
