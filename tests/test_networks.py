import json

import numpy as np
import pytest
import torch

from diffseg.config import Network
from diffseg.errors import ConfigError
from diffseg.networks import NETWORKS, build, check_size, load_published

GOLDEN = {  # settings of the small published instances
    "ensemdiff": {
        "channels": 1,
        "image_channels": 3,
        "out_channels": 2,
        "width": 32,
        "multipliers": (1, 2, 2),
        "attention": (2,),
    },
}
PUBLISHED = {"ensemdiff": ("ensemdiff", {"image_channels": 3}), "ensemdiff_brats": ("ensemdiff", {"image_channels": 4})}


def golden(reference, name):
    stored = np.load(reference / f"{name}.npz", allow_pickle=False)
    state = {
        key.removeprefix("state/"): torch.from_numpy(stored[key]).float()
        for key in stored.files
        if key.startswith("state/")
    }
    return state, {key: torch.from_numpy(stored[key]) for key in ("x_t", "t", "image", "output")}


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_published_network(reference, name):
    state, tensors = golden(reference, name)
    network = load_published(name, state, **GOLDEN[name]).eval()
    with torch.inference_mode():
        output = network(tensors["x_t"], tensors["t"], tensors["image"])
    assert (output - tensors["output"]).abs().max() <= 1e-5


@pytest.mark.parametrize("name", PUBLISHED)
def test_has_the_published_parameters(reference, name):
    published = json.loads((reference / "published_keys.json").read_text())[name]
    kind, settings = PUBLISHED[name]
    with torch.device("meta"):
        network = NETWORKS[kind](**settings)
    own = network.state_dict()
    assert {key: list(own[ours].shape) for ours, key in network.published_names().items()} == published["state"]
    assert sum(parameter.numel() for parameter in network.parameters()) == published["parameters"]


def published_state(network):
    names = network.published_names()
    return {names[key]: value.clone() for key, value in network.state_dict().items()}


def test_a_foreign_state_dict_is_refused_key_by_key():
    settings = {"width": 32, "multipliers": (1,), "blocks": 1, "attention": ()}
    state = published_state(NETWORKS["ensemdiff"](**settings))
    loaded = load_published("ensemdiff", state, **settings)
    assert all(torch.equal(a, b) for a, b in zip(published_state(loaded).values(), state.values(), strict=True))
    state["out.2.bias"] = torch.zeros(7)
    state["extra.weight"] = state.pop("time_embed.0.bias")
    with pytest.raises(
        ConfigError, match=r"missing time_embed\.0\.bias.*unexpected extra\.weight.*out\.2\.bias is \[7\], not \[2\]"
    ):
        load_published("ensemdiff", state, **settings)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("channels", "image_channels"), [(1, 3), (1, 0), (3, 0), (1, 4)])
@pytest.mark.parametrize("size", [16, 24])
def test_contract(name, channels, image_channels, size):
    """Every network: shapes, a zero start, gradients everywhere, dependence on all inputs, samples independent in a batch."""
    torch.manual_seed(0)
    network = build(
        Network(name=name, width=32, multipliers=(1, 2), blocks=1, attention=(2,), heads=2),
        channels,
        image_channels,
        channels,
    )
    x_t, t = torch.randn(2, channels, size, size), torch.tensor([3.0, 700.0])
    image = torch.randn(2, image_channels, size, size) if image_channels else None
    assert torch.equal(network(x_t, t, image), torch.zeros(2, channels, size, size))  # zero-initialised head
    for parameter in network.parameters():  # a trained network has no zero branches
        torch.nn.init.normal_(parameter, std=0.05)
    output = network(x_t, t, image)
    output.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())
    network.eval()
    with torch.inference_mode():
        alone = network(x_t[:1], t[:1], None if image is None else image[:1])
        assert torch.allclose(alone, output[:1], atol=1e-4)
        assert not torch.allclose(network(x_t, t + 100, image), output)
        assert not torch.allclose(network(x_t + 1, t, image), output)
        if image is not None:
            assert not torch.allclose(network(x_t, t, image + 1), output)


def test_sizes_that_do_not_pass_are_named_with_those_near():
    check_size(Network(width=32, multipliers=(1, 1, 1)), 32)
    with pytest.raises(ConfigError, match=r"data.size is 30.*multiple of 4.*data.size=28 or data.size=32"):
        check_size(Network(width=32, multipliers=(1, 1, 1)), 30)
