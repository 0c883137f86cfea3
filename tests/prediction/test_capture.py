"""Steps and predictions that CUDA graphs can capture: what a capture would refuse is found on CPUs, by tensors without values."""

from collections import Counter

import pytest
import torch
from small_networks import CLASSES, NETWORKS
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from diffseg.config import Config
from diffseg.diffusion import losses
from diffseg.diffusion.schedules import log_snr
from diffseg.experiments import build_experiment, build_network
from diffseg.labels import labels
from diffseg.labels.labels import Labels
from diffseg.networks import group_norm
from diffseg.prediction import noise
from diffseg.prediction.capture import CapturedCalls
from diffseg.prediction.philox import compute_windows
from diffseg.training.execution import captures_predictions
from diffseg.training.parallel import SINGLE_PROCESS

SAMPLERS = ("ancestral", "ddim", "dpm-solver++")
DIFFUSIONS = {
    **{sampler: {"inference.sampler": sampler} for sampler in SAMPLERS},
    "ddim with noise": {"inference.sampler": "ddim", "inference.eta": 0.5},
    "self-conditioning": {"diffusion.self_conditioning": True},
    "scaled noise": {"inference.epsilon_scale": 1.01},
    "a grid": {"inference.grid": "log-snr"},
    "learned variance": {"diffusion.variance": "learned"},
    "steps": {"diffusion.time": "steps", "diffusion.discrete": True, "diffusion.schedule": "linear"},
    **{coding: CLASSES | {"diffusion.coding": coding} for coding in ("pm1", "bits", "sdf")},
}
CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def without_kernels(monkeypatch):
    """No kernel is launched without a device: what torch computes stands for ours."""
    monkeypatch.setattr(noise, "normal_windows", compute_windows)
    monkeypatch.setattr(group_norm, "_has_kernels", lambda device: False)


class RefuseHost(TorchDispatchMode):
    """Refuses copies between the host and the device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        sources = [one.device.type for one in args if isinstance(one, torch.Tensor) and one.dim()]
        if "_copy" in str(function) and isinstance(found, torch.Tensor):
            assert all(source == found.device.type for source in sources), f"{function} copies between host and device"
        return found


def without_values(network):
    """Replace the weights and buffers by tensors on a device that is not there."""
    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = torch.nn.Parameter(
                    torch.empty(weight.shape, dtype=weight.dtype, device=CUDA)
                )
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=CUDA)


@pytest.fixture
def predict_without_values():
    """A function that predicts a batch as a capture would, on a device that is not there."""

    def predict(config):
        size = config.data.size
        log_snr(torch.tensor(0.5), config.diffusion)  # whose constants the eager call before a capture keeps
        network, experiment = build_network(config).eval(), build_experiment(config)
        times = experiment.plan(network, torch.device("cpu"))  # before any batch, and kept
        with FakeTensorMode(), torch.inference_mode():
            with CUDA:
                without_values(network)
                images = torch.empty(2, config.data.channels, size, size)
                which, keys, members = (torch.zeros(4, dtype=torch.long) for _ in range(3))
                corners = torch.zeros(4, 2, dtype=torch.long)
                plan = torch.empty(times.shape, dtype=times.dtype)
            draws = noise.CountedNoise(keys, members, corners, Labels.of(config).channels, size)
            with RefuseHost():
                return experiment.predict(network, images, draws, which, plan)

    return predict


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("network", "experiment", "diffusion"),
    [
        *((network, "e2", "ancestral") for network in NETWORKS if network != "segformer"),
        *((network, "e1", "ancestral") for network in NETWORKS),
        *(("ensemdiff", "e2", diffusion) for diffusion in DIFFUSIONS),
    ],
)
def test_a_prediction_does_not_wait_for_the_device(predict_without_values, network, experiment, diffusion):
    leaves = {"network": network.split()[0], "experiment": experiment, "data.size": 32} | NETWORKS[network]
    if experiment == "e2":
        leaves |= {"diffusion.target": "x0", "inference.steps": 3} | DIFFUSIONS[diffusion]
    config = Config().with_leaves(leaves).resolved()
    assert captures_predictions(config, CUDA)
    probabilities, evaluations = predict_without_values(config)
    assert probabilities.shape == (4, Labels.of(config).classes.count, 32, 32)
    assert evaluations.shape == (4,)


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.nonzero(),
        lambda x: x.sum().item(),
        lambda x: x[[0, 1]],
        lambda x: x + torch.ones(4),
        lambda x: x.cpu(),
        lambda x: torch.tensor([1.0, 2.0], device=CUDA),
        lambda x: x[x > 0],
    ],
)
def test_what_waits_for_the_device_is_found(waits):
    with FakeTensorMode(), RefuseHost(), pytest.raises(Exception, match=r"nonzero|_local_scalar|host|devices|index"):
        waits(torch.empty(4, device=CUDA))


LOSSES = {
    "adaptive density": {"diffusion.density": "adaptive"},
    "online density": {"diffusion.density": "online"},
    "online weighting": {"diffusion.weighting": "online"},
    "recycling": {"diffusion.recycling": 1.0, "diffusion.input_perturbation": 0.1},
    "noisier estimate": {"diffusion.self_conditioning": True, "diffusion.estimate": "noisier-level"},
    **{target: {"diffusion.target": target} for target in ("flow", "edm", "x0-epsilon")},
    "learned weighting": {"diffusion.weighting": "learned"},
    "boundary": {"diffusion.loss": "boundary"},
    "cross-entropy": {"diffusion.activation": "sigmoid", "diffusion.loss": "dice-cross-entropy"},
    "classes by cross-entropy": CLASSES
    | {"diffusion.activation": "sigmoid", "diffusion.loss": "dice-cross-entropy", "data.ignore": 9},
}


class Draws:
    """A generator without a device, for what a training step asks of one."""

    device = CUDA

    def initial_seed(self):
        return 2


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("network", "experiment", "settings"),
    [
        *((network, "e1", {}) for network in NETWORKS),
        *((network, "e2", {}) for network in NETWORKS if network != "segformer"),
        *(("ensemdiff", experiment, {}) for experiment in ("e3", "e4")),
        *(("ensemdiff", "e2", settings) for name, settings in DIFFUSIONS.items() if name not in SAMPLERS),
        *(("ensemdiff", "e2", settings) for settings in LOSSES.values()),
    ],
)
def test_a_training_step_does_not_wait_for_the_device(network, experiment, settings, monkeypatch):
    """Of the step: the loss, and what is learned from the losses. Gradients cannot be computed without a device."""
    for name in ("randn", "rand", "randperm"):
        draw = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *shape, draw=draw, generator=None, **more: draw(*shape, **more))
    # monai's Dice loss lists numbers by a tensor on the host, which has no values here
    monkeypatch.setattr(losses, "_dice", lambda: lambda p, y: 1 - (p * y).sum((2, 3), keepdim=True))
    leaves = {"network": network.split()[0], "experiment": experiment, "data.size": 32} | NETWORKS[network]
    leaves |= ({"diffusion.target": "x0"} if experiment == "e2" else {}) | settings
    config = Config().with_leaves(leaves).resolved()
    log_snr(torch.tensor(0.5), config.diffusion)
    built, objective = build_network(config).train(), build_experiment(config)
    with FakeTensorMode(), CUDA:
        without_values(built)
        images = torch.empty(4, config.data.channels, 32, 32)
        masks = torch.empty(4, 1, 32, 32)
        labels._membership(Labels.of(config).classes, CUDA)  # which the eager steps before a capture keep
        with RefuseHost():
            loss = objective.loss(built, images, masks, Draws())
            objective.learn_from_losses(built, SINGLE_PROCESS)
    labels._membership.cache_clear()
    assert loss.shape == ()


class Replay:
    """A graph that calls the function again on its static inputs."""

    def __init__(self, function, static, outputs):
        self.function, self.static, self.outputs = function, static, outputs

    def replay(self):
        for place, tensor in zip(self.outputs, self.function(*self.static), strict=True):
            place.copy_(tensor)


class OnHost(CapturedCalls):
    """Captured calls without a device, to test when they are captured and what is copied."""

    def __init__(self, function, short=False):
        self.function, self.short, self.captures = function, short, 0
        self.calls, self.graphs, self.fits = Counter(), {}, True

    def _run_eagerly(self, inputs):
        return self.function(*inputs)

    def _capture(self, inputs):
        self.captures += 1
        if self.short:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        static = tuple(tensor.clone() for tensor in inputs)
        outputs = tuple(torch.empty_like(found) for found in self.function(*static))
        return Replay(self.function, static, outputs), static, outputs


@pytest.mark.parametrize("short", [False, True])
def test_calls_of_one_shape_share_a_graph_and_return_what_eager_calls_return(short):
    calls = OnHost(lambda x, y: (x + y, x * y), short)
    for number, length in enumerate((2, 3, 2, 2, 3, 2)):
        x, y = torch.full((length,), float(number)), torch.full((length,), 2.0)
        total, product = calls(x, y)
        assert torch.equal(total, x + y)
        assert torch.equal(product, x * y)
    assert calls.captures == (1 if short else 2)


def test_other_errors_of_a_capture_are_not_hidden():
    calls = OnHost(lambda x: (x,))
    calls._capture = lambda inputs: (_ for _ in ()).throw(RuntimeError("operation not permitted"))
    calls(torch.zeros(1))
    with pytest.raises(RuntimeError, match="not permitted"):
        calls(torch.zeros(1))


def test_what_cannot_be_captured_runs_eagerly():
    config = Config().with_leaves({"experiment": "e2", "inference.settled": 2}).resolved()
    assert not captures_predictions(config, CUDA)
    assert not captures_predictions(Config(experiment="e2").resolved(), torch.device("cpu"))
