"""Every pair of coding, classes, network, target, loss, schedule, … trains and predicts, or is refused in one sentence."""

import itertools
from functools import cache
from typing import get_args

import pytest
import torch
from conftest import TINY
from label_kinds import KINDS, draw_numbers
from pairwise import choose_pairwise, missing_pairs

from diffseg.config import Config, Diffusion
from diffseg.config.inference import TWICE
from diffseg.diffusion.samplers import SAMPLERS
from diffseg.errors import ConfigError
from diffseg.experiments import build_experiment, build_network
from diffseg.labels.labels import Labels
from diffseg.randomness import generator
from studies.planning.estimate import estimate_cost

NETWORKS = {
    "ensemdiff": {},
    "segdiff": {"network.rrdb_blocks": 1, "network.rrdb_width": 8, "network.rrdb_growth": 4},
    "medsegdiff": {},
    "medsegdiff v1": {"network.version": "v1", "network.multipliers": [1, 1, 1]},
    "ambdiff": {"network.blocks": [1, 1]},
}
PROFILE = {"diffusion.profile": [[-12.0, 0.0], [-4.0, 2.0], [6.0, 0.5]], "diffusion.mixing": 0.1}
AXES = {
    "classes": {kind: leaves for kind, leaves in KINDS.items() if kind != "one"},
    "network": {
        name: {"network.name": name.split()[0], "network.width": 32, "network.multipliers": [1, 1]} | own
        for name, own in NETWORKS.items()
    },
    "coding": {name: {"diffusion.coding": name} for name in ("pm1", "01", "bits", "sdf")},
    "experiment": {name: {"experiment": name} for name in ("e2", "e3")},
    "target": {name: {"diffusion.target": name} for name in get_args(Diffusion.model_fields["target"].annotation)},
    "activation": {name: {"diffusion.activation": name} for name in ("identity", "tanh", "sigmoid")},
    "loss": {name: {"diffusion.loss": name} for name in ("mse", "boundary", "cross-entropy", "dice-cross-entropy")},
    "reduction": {name: {"diffusion.reduction": name} for name in ("mean", "sum")},
    "schedule": {name: {"diffusion.schedule": name} for name in ("linear", "cosine", "laplace", "sigmoid", "flow")},
    "weighting": {
        "target": {},
        "min-snr": {"diffusion.weighting": "min-snr"},
        "learned": {"diffusion.weighting": "learned"},
        "profile": {"diffusion.weighting": "profile"} | PROFILE,
    },
    "density": {name: {"diffusion.density": name} for name in ("uniform", "adaptive", "online")},
    "variance": {name: {"diffusion.variance": name} for name in ("small", "learned")},
    "own estimate": {
        "none": {},
        "given": {"diffusion.self_conditioning": True},
        "noisier": {"diffusion.self_conditioning": True, "diffusion.estimate": "noisier-level"},
        "recycled": {"diffusion.recycling": 1.0, "diffusion.input_perturbation": 0.1},
    },
    "sampler": {name: {"inference.sampler": name} for name in SAMPLERS},
    "grid": {name: {"inference.grid": name} for name in ("uniform", "log-snr", "edm")},
    "clip": {name: {"inference.clip": name} for name in ("coding", "pm1", "none")},
    "settled": {"never": {}, "early": {"inference.settled": 1, "inference.steps": 4}},
    "ignore": {"none": {}, "some": {"data.ignore": 77}},
}
FEED_FORWARD = {
    "classes": AXES["classes"],
    "network": AXES["network"]
    | {
        "segformer": {
            "network.name": "segformer",
            "network.weights": "none",
            "network.encoder": "mit_b0",
            "data.size": 64,
        }
    },
    "coding": AXES["coding"],  # unused
    "ignore": AXES["ignore"],
    "experiment": {"e1": {"experiment": "e1"}},
}
REGIONS = [("classes", "regions"), ("classes", "overlapping")]
OF_UNETS = ("network.width", "network.multipliers", "network.blocks", "network.attention")


def configure(axes, choice):
    """Return the resolved configuration of one choice on each axis."""
    leaves = {path: value for path, value in TINY.items() if path not in OF_UNETS}
    leaves |= {"network.blocks": 1, "network.attention": [2]} if choice["network"] != "segformer" else {}
    for axis, name in choice.items():
        leaves |= axes[axis][name]
    return Config().with_leaves(leaves).resolved()


def refusal(axes, choice):
    """Return the sentence that refuses the choice; None if it is possible."""
    try:
        configure(axes, choice)
    except ConfigError as error:
        return str(error)
    return None


@cache
def possible(pairs):
    """Return whether values of these axes, with the first ones of the others, make a configuration."""
    plain = {axis: next(iter(values)) for axis, values in AXES.items()}
    return refusal(AXES, plain | dict(pairs)) is None


def feasible(choice):
    """Return whether a choice is possible, which only some axes decide."""
    decisive = ("classes", "coding", "target", "activation", "loss", "weighting", "density", "sampler", "settled")
    return possible(tuple((axis, choice[axis]) for axis in decisive))


CHOSEN = choose_pairwise(AXES, feasible, tries=400)
CHOSEN_E1 = choose_pairwise(
    FEED_FORWARD, lambda choice: choice["coding"] != "bits" or "data.regions" not in KINDS[choice["classes"]]
)


def test_all_pairs_are_tried_but_those_that_exclude_each_other():
    logits = [
        *(("target", name) for name in AXES["target"] if name != "x0"),
        ("activation", "identity"),
        ("activation", "tanh"),
        ("coding", "sdf"),
    ]
    entropies = [("loss", "cross-entropy"), ("loss", "dice-cross-entropy")]
    excluded = {frozenset(pair) for pair in itertools.product(entropies, logits)}
    excluded |= {frozenset([("coding", "bits"), other]) for other in (entropies[1], *REGIONS)}
    excluded |= {frozenset([("weighting", "learned"), ("density", "adaptive")])}
    excluded |= {frozenset([("weighting", "profile"), ("density", "online")])}
    excluded |= {frozenset([("settled", "early"), ("sampler", name)]) for name in TWICE}
    assert {frozenset(pair) for pair in missing_pairs(AXES, CHOSEN)} == excluded


@pytest.mark.sampled(4)
@pytest.mark.parametrize("choice", CHOSEN, ids=lambda choice: "-".join(choice.values()))
def test_a_pair_trains_and_predicts(choice):
    check(configure(AXES, choice))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("choice", CHOSEN_E1, ids=lambda choice: "-".join(choice.values()))
def test_a_pair_trains_and_predicts_in_e1(choice):
    config = configure(FEED_FORWARD, choice)
    assert config == configure(FEED_FORWARD, choice | {"coding": "pm1"})
    check(config)


def check(config):
    """Take a step of training and predict; every weight has a gradient, and probabilities are such."""
    size, labels, experiment = config.data.size, Labels.of(config), build_experiment(config)
    torch.manual_seed(0)
    network = build_network(config)
    with torch.no_grad():
        for parameter in network.parameters():  # those that start at 0 would let no gradient pass
            parameter.add_(0.02 * torch.randn(parameter.shape))
    numbers = draw_numbers(config, count=3, size=size)
    images = torch.rand(3, 3, size, size, generator=generator("cpu", 0, "images")) * 2 - 1
    for seed in (0, 1):  # one of them is self-conditioned
        loss = experiment.loss(network, images, numbers, generator("cpu", seed))
        assert loss.shape == ()
        assert loss.isfinite()
        loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    network.eval()
    with torch.inference_mode():
        if not experiment.segments:
            t = torch.linspace(0.2, 1, 3, dtype=torch.float64)
            errors = experiment.measure_errors(
                network, images, numbers, t, experiment.draw_noise(images, numbers, generator("cpu", 0))
            )
            assert all(found.shape == (3, len(labels.classes.rows)) for found in errors.values())
            assert all(found.isfinite().all() for found in errors.values())
            return
        noise = lambda k: torch.randn(4, labels.channels, size, size, generator=generator("cpu", k))  # noqa: E731
        found, evaluations = experiment.predict(
            network, images, noise, torch.tensor([0, 0, 1, 2]), experiment.plan(network, images.device)
        )
    assert found.shape == (4, labels.classes.count, size, size)
    assert 0 <= found.min() <= found.max() <= 1
    assert 1 <= evaluations.min() <= evaluations.max() <= (config.inference.steps or 1)
    if labels.several:
        assert found.sum(1).max() <= 1 + 1e-5


REFUSED = {
    ("coding", "bits", "classes", "regions"): "diffusion.coding=bits codes one class a pixel, but data.regions lets",
    ("coding", "sdf", "loss", "cross-entropy"): "loss cross-entropy needs logits, but coding sdf holds distances",
    ("coding", "sdf", "loss", "dice-cross-entropy"): "loss dice-cross-entropy needs logits, but coding sdf holds",
    (
        "coding",
        "bits",
        "loss",
        "dice-cross-entropy",
    ): "loss dice-cross-entropy needs one channel a class, but coding bits",
    (
        "target",
        "epsilon",
        "loss",
        "cross-entropy",
    ): "loss cross-entropy needs logits of the mask: set diffusion.target=x0",
    ("weighting", "learned", "density", "adaptive"): "density adaptive needs a loss that is never negative",
}


@pytest.mark.parametrize("pair", REFUSED, ids=lambda pair: "-".join(pair))
def test_what_is_impossible_is_refused_in_one_sentence(pair):
    plain = {axis: next(iter(values)) for axis, values in AXES.items()} | {"target": "x0", "activation": "sigmoid"}
    sentence = refusal(AXES, plain | {pair[0]: pair[1], pair[2]: pair[3]})
    assert sentence is not None
    assert REFUSED[pair] in sentence
    assert "\n" not in sentence


@pytest.mark.sampled(6)
@pytest.mark.parametrize("coding", AXES["coding"])
@pytest.mark.parametrize("network", ["ensemdiff", "medsegdiff v1"])
@pytest.mark.parametrize("kind", ["binary", "five", "overlapping"])
def test_estimates_count_the_weights_of_all_channels(kind, network, coding):
    choice = {"classes": kind, "network": network, "coding": coding, "own estimate": "given", "variance": "learned"}
    if refusal(AXES, choice):
        pytest.skip("bits of regions are refused")
    config = configure(AXES, choice)
    with torch.device("meta"):
        expected = sum(parameter.numel() for parameter in build_network(config).parameters())
    assert estimate_cost(config).parameters == expected
