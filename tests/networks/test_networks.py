"""The networks: equality with the published ones, the contract that all of them keep, and their declarations."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffseg.config import NETWORKS, AmbDiff, Config, EnsemDiff, MedSegDiff, NNUNet, SegDiff, SegFormer
from diffseg.errors import ConfigError, UserError
from diffseg.networks.blocks import Attention, Upsample
from diffseg.networks.group_norm import GroupNorm
from diffseg.networks.medsegdiff.ffparser import FFParser
from diffseg.networks.medsegdiff.highway import upsample
from diffseg.networks.medsegdiff.network import MedSegDiffNetwork
from diffseg.networks.protocol import EXPERIMENTS, Dimensions, Implementation
from diffseg.networks.published import load_published, published_names

TWO_OUTPUTS = Dimensions(out_channels=2)  # ε and the variance


def build(settings, channels=1, image_channels=3, out_channels=1, size=256):
    return settings.implementation().build(Dimensions(channels, image_channels, out_channels, size))


GOLDEN = {  # the small published instances
    "ensemdiff": lambda: build(EnsemDiff(width=32, multipliers=(1, 2, 2), attention=(2,)), out_channels=2),
    "segdiff": lambda: build(SegDiff(width=32, multipliers=(1, 2, 2), attention=(2,), rrdb_blocks=2)),
    "medsegdiff_new": lambda: MedSegDiffNetwork(
        MedSegDiff(width=32, multipliers=(1, 2, 2), attention=(4,)), TWO_OUTPUTS, pools=5
    ),
    "medsegdiff_v1": lambda: build(MedSegDiff(version="v1", width=32, attention=(4,)), out_channels=2, size=64),
    "ambdiff": lambda: build(AmbDiff(multipliers=(1, 2), blocks=(1, 2), middle=2, attention=(2,))),
}
PUBLISHED = {  # the published sizes
    "ensemdiff": lambda: build(EnsemDiff(), out_channels=2),
    "ensemdiff_brats": lambda: build(EnsemDiff(), image_channels=4, out_channels=2),
    "segdiff_monuseg": lambda: build(SegDiff()),
    "segdiff_cityscapes": lambda: build(SegDiff(multipliers=(1, 1, 2, 2, 4, 4), attention=(8, 16), rrdb_blocks=15)),
    "medsegdiff_new": lambda: build(MedSegDiff(), out_channels=2),
    "medsegdiff_v1": lambda: build(MedSegDiff(version="v1"), out_channels=2),
    "ambdiff": lambda: build(AmbDiff()),
}
SMALL = {  # settings for tests of behaviour
    "ensemdiff": EnsemDiff(width=32, multipliers=(1, 2), blocks=1, attention=(2,), heads=2),
    "segdiff": SegDiff(
        width=32, multipliers=(1, 2), blocks=1, attention=(2,), rrdb_blocks=1, rrdb_width=8, rrdb_growth=4
    ),
    "medsegdiff-new": MedSegDiff(width=32, multipliers=(1, 2), blocks=1, attention=(2,)),
    "medsegdiff-v1": MedSegDiff(version="v1", width=32, multipliers=(1, 1, 2), blocks=1, attention=(2,)),
    "ambdiff": AmbDiff(width=32, multipliers=(1, 2), blocks=(1, 1), middle=2, attention=(2,)),
    "segformer": SegFormer(encoder="mit_b0", weights="none"),
}
DIFFUSION = [name for name in SMALL if name != "segformer"]


def golden(reference, name):
    stored = np.load(reference / f"{name}.npz", allow_pickle=False)
    state = {
        key.removeprefix("state/"): torch.from_numpy(stored[key]).float()
        for key in stored.files
        if key.startswith("state/")
    }
    state |= {
        key.replace("extra/emb_conv", "embedding"): torch.from_numpy(stored[key]).float()
        for key in stored.files
        if key.startswith("extra/")
    }
    return state, {
        key: torch.from_numpy(stored[key]) for key in ("x_t", "t", "image", "output", "cal") if key in stored.files
    }


@pytest.fixture(params=GOLDEN)
def published(request, reference):
    """(our network with the weights of a published tiny one, its inputs, its outputs: by name)."""
    state, tensors = golden(reference, request.param)
    network = GOLDEN[request.param]().eval()
    load_published(network, state)
    if request.param == "ambdiff":  # its last activation is a setting of ours
        network.register_forward_hook(lambda module, inputs, output: output.tanh())
    return network, [tensors[name] for name in ("x_t", "t", "image")], tensors


@pytest.mark.sampled(2)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_outputs_equal_those_of_the_published_network(published, layout):
    network, inputs, expected = published
    network = network.to(memory_format=layout)
    with torch.inference_mode():
        assert (network(*inputs) - expected["output"]).abs().max() <= 1e-5
        if "cal" in expected:
            output, mask = network(*inputs, extra=True)
            assert (output - expected["output"]).abs().max() <= 1e-5
            assert (mask - expected["cal"]).abs().max() <= 1e-5


def test_the_form_that_compiles_equals_the_published_network(published, monkeypatch):
    network, inputs, expected = published
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with torch.inference_mode():
        assert (network(*inputs) - expected["output"]).abs().max() <= 1e-5


@pytest.mark.parametrize(
    "part",
    [GroupNorm(4, 4), GroupNorm(2, 4), Upsample(4), *(partial(upsample, factor=factor) for factor in (2, 3, 4))],
)
def test_the_form_that_compiles_has_the_same_gradients(part, monkeypatch):
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64, requires_grad=True)
    parameters = list(part.double().parameters()) if isinstance(part, torch.nn.Module) else []
    for parameter in parameters:
        torch.nn.init.normal_(parameter)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # the precision that some compute in
    expected, inputs = part(x), [x, *parameters]
    upstream = torch.randn_like(expected)
    before = torch.autograd.grad(expected, inputs, upstream)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    found = part(x)
    assert torch.allclose(found, expected, rtol=1e-10)
    for one, other in zip(torch.autograd.grad(found, inputs, upstream), before, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_attention_uses_a_fused_kernel(layout):
    x = torch.randn(2, 64, 8, 8, requires_grad=True).to(memory_format=layout)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # raises if it cannot be
        Attention(64, 4)(x).sum().backward()


@pytest.mark.slow
def test_the_compiled_network_equals_the_published_one(published):
    network, inputs, expected = published
    torch.compiler.reset()
    with torch.inference_mode():
        output = torch.compile(network, dynamic=False)(*inputs)
    assert (output - expected["output"]).abs().max() <= 1e-5


@pytest.mark.sampled(1)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bf16_outputs_are_within_two_percent_of_the_published_ones(published, layout):
    """Compares root mean squares: of the difference, and of the output."""
    network, inputs, expected = published
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        output = network.to(memory_format=layout)(*inputs).float()
    assert (output - expected["output"]).square().mean() <= 0.02**2 * expected["output"].square().mean()


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(reference, name):
    published = json.loads((reference / "published_keys.json").read_text())[name]
    with torch.device("meta"):
        network = PUBLISHED[name]()
    if name == "medsegdiff_v1":
        del network.embedding  # the published code draws it anew in every forward pass
    own = network.state_dict()
    assert {key: list(own[ours].shape) for ours, key in published_names(network).items()} == published["state"]
    assert sum(parameter.numel() for parameter in network.parameters()) == published["parameters"]


def published_state(network):
    names = published_names(network)
    return {names[key]: value.clone() for key, value in network.state_dict().items()}


def test_a_state_dict_that_does_not_fit_is_refused_key_by_key():
    settings = EnsemDiff(width=32, multipliers=(1,), blocks=1, attention=())
    state, loaded = published_state(build(settings, out_channels=2)), build(settings, out_channels=2)
    load_published(loaded, state)
    assert all(torch.equal(a, b) for a, b in zip(published_state(loaded).values(), state.values(), strict=True))
    state["out.2.bias"] = torch.zeros(7)
    state["extra.weight"] = state.pop("time_embed.0.bias")
    with pytest.raises(
        ConfigError, match=r"missing time_embed\.0\.bias.*unexpected extra\.weight.*out\.2\.bias is \[7\], not \[2\]"
    ):
        load_published(build(settings, out_channels=2), state)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("channels", "image_channels"), [(1, 3), (1, 0), (3, 0), (1, 4)])
@pytest.mark.parametrize("size", [32, 64])
def test_every_network_keeps_the_contract(name, channels, image_channels, size):
    """Shapes, a zero start, gradients everywhere, dependence on all inputs, independence of samples in a batch."""
    if name == "segformer" and not image_channels:
        pytest.skip("feed-forward")
    torch.manual_seed(0)
    network = build(SMALL[name], channels, image_channels, channels, size=32)
    x_t, t = torch.randn(2, channels, size, size), torch.tensor([3.0, 700.0])
    image = torch.randn(2, image_channels, size, size) if image_channels else None
    if name in DIFFUSION:
        assert torch.equal(network(x_t, t, image), torch.zeros(2, channels, size, size))  # zero-initialised head
        for parameter in network.parameters():  # a trained network has no zero branches
            torch.nn.init.normal_(parameter, std=0.05)
    if name.startswith("medsegdiff") and image_channels:
        output, mask = network(x_t, t, image, extra=True)
        assert mask.shape == (2, 1, size, size)
        mask.sum().backward(retain_graph=True)
    else:
        output = network(x_t, t, image)
    assert output.shape == (2, channels, size, size)
    output.square().sum().backward()
    if name in DIFFUSION or size == 64:  # at 32 px SegFormer attends to a single place
        assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())
    network.eval()
    with torch.inference_mode():
        output = network(x_t, t, image)
        alone = network(x_t[:1], t[:1], None if image is None else image[:1])
        assert torch.allclose(alone, output[:1], atol=1e-4)
        if name in DIFFUSION:
            assert not torch.allclose(network(x_t, t + 100, image), output)
            assert not torch.allclose(network(x_t + 1, t, image), output)
        if image is not None:
            assert not torch.allclose(network(x_t, t, image + 1), output)


def test_each_half_of_the_new_medsegdiff_learns_from_its_own_loss():
    network = build(SMALL["medsegdiff-new"], 1, 3, 1, size=32)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    x_t, t, image = torch.randn(2, 1, 32, 32), torch.tensor([3.0, 700.0]), torch.randn(2, 3, 32, 32)
    output, mask = network(x_t, t, image, extra=True)
    output.sum().backward(retain_graph=True)
    assert all((p.grad is None) == key.startswith("highway.") for key, p in network.named_parameters())
    network.zero_grad(set_to_none=True)
    mask.sum().backward()
    assert all((p.grad is not None) == key.startswith("highway.") for key, p in network.named_parameters())


def test_a_published_v1_loads_without_the_convolution_that_it_never_kept(caplog):
    settings = MedSegDiff(version="v1", width=32, multipliers=(1, 1, 2), blocks=1, attention=())
    state, loaded = published_state(build(settings, size=32)), build(settings, size=32)
    del state["embedding.weight"], state["embedding.bias"]
    load_published(loaded, state)
    assert torch.equal(loaded.highway.head.weight, state["hwm.seg_outputs.0.weight"])
    assert "embedding.bias, embedding.weight: drawn at random" in caplog.text


class TestFFParser:
    def test_it_is_a_circular_convolution_at_its_own_size(self):
        parser, x = FFParser(2, 8), torch.randn(1, 2, 8, 8)
        kernel = torch.fft.irfft2(torch.view_as_complex(parser.weight.detach()), s=(8, 8))
        around = torch.nn.functional.pad(x, (7, 0, 7, 0), mode="circular")
        expected = torch.nn.functional.conv2d(around, kernel.flip(-1, -2)[:, None], groups=2)
        assert torch.allclose(parser(x), expected, atol=1e-6)

    @pytest.mark.parametrize("size", [(8, 8), (16, 16), (4, 4), (12, 10), (7, 9)])
    def test_a_constant_filter_is_the_same_at_any_size(self, size):
        parser, x = FFParser(2, 8), torch.randn(1, 2, *size)
        torch.nn.init.zeros_(parser.weight)
        parser.weight.data[..., 0] = torch.tensor([2.0, -3.0])[:, None, None]
        assert torch.allclose(parser(x), x * torch.tensor([2.0, -3.0])[:, None, None], atol=1e-5)

    def test_it_passes_the_same_waves_at_another_size(self):
        """A filter that passes low frequencies only passes the same waves, in cycles per pixel, at twice the size."""
        parser = FFParser(1, 16)
        torch.nn.init.zeros_(parser.weight)
        parser.weight.data[:, :3, :3, 0] = parser.weight.data[:, -2:, :3, 0] = 1
        for size in (16, 32):
            columns = torch.arange(size).expand(1, 1, size, size)
            low, high = (torch.cos(2 * torch.pi * columns * f) for f in (1 / 16, 6 / 16))
            assert torch.allclose(parser(low), low, atol=1e-5)
            assert parser(high).abs().max() < 1e-5

    def test_it_stays_in_float32_under_autocast(self):
        parser = FFParser(1, 8)
        with torch.autocast("cpu", torch.bfloat16):
            assert parser(torch.randn(1, 1, 8, 8, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", SMALL)
def test_bf16_gives_no_nan(name):
    network = build(SMALL[name], 1, 3, 1, size=32)
    x_t, t, image = 30 * torch.randn(2, 1, 32, 32), torch.tensor([0.0, 999.0]), torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(x_t, t, image).isfinite().all()


def test_segformer_without_internet_says_what_to_do(monkeypatch):
    import segmentation_models_pytorch.encoders as encoders

    def offline(*settings, **more):
        raise OSError("no route to host")

    monkeypatch.setattr(encoders, "get_encoder", offline)
    with pytest.raises(UserError, match=r"imagenet weights of mit_b0.*network.weights=none"):
        build(SegFormer(encoder="mit_b0"), 1, 3, 1, size=32).load_pretrained()


@pytest.mark.parametrize(
    ("network", "size", "words"),
    [
        (EnsemDiff(width=32, multipliers=(1, 1, 1)), 30, r"multiple of 4.*data.size=28 or data.size=32"),
        (MedSegDiff(width=32, multipliers=(1, 1)), 12, r"multiple of 8.*data.size=8 or data.size=16"),
        (SegFormer(), 100, r"multiple of 32.*data.size=96 or data.size=128"),
    ],
)
def test_a_size_that_does_not_fit_is_refused_with_the_nearest_that_do(network, size, words):
    network.check_size(64)
    with pytest.raises(ConfigError, match=words):
        network.check_size(size)


@pytest.mark.parametrize("name", DIFFUSION)
def test_inputs_of_wrong_channels_or_sizes_are_refused_in_one_sentence(name):
    network, t = build(SMALL[name], 1, 3, 1, size=32), torch.zeros(1)
    with pytest.raises(ConfigError, match=r"got (5|2) channels of mask and image together, but was built for (4|1)"):
        network(torch.zeros(1, 2, 32, 32), t, torch.zeros(1, 3, 32, 32))
    with pytest.raises(ConfigError, match=r"got images of 32 × 33 px, but both sides must be multiples of"):
        network(torch.zeros(1, 1, 32, 33), t, torch.zeros(1, 3, 32, 33))


def test_the_state_dict_of_another_network_is_refused():
    state = published_state(build(SegDiff(width=32, multipliers=(1, 2), attention=(), rrdb_blocks=1)))
    with pytest.raises(ConfigError, match=r"not that of EnsemDiffNetwork.*unexpected rrdb.conv_first.weight"):
        load_published(build(EnsemDiff(width=32, multipliers=(1, 2), attention=())), state)


@pytest.mark.parametrize("name", NETWORKS)
class TestDeclarations:
    """What a network declares about itself."""

    def test_its_name_is_that_of_the_registry_and_it_has_a_summary(self, name):
        network = NETWORKS[name]
        assert network().name == name
        assert network.summary
        assert network.citation

    def test_it_can_be_configured_for_its_experiments_alone(self, name):
        for experiment in EXPERIMENTS:
            if experiment in NETWORKS[name].experiments:
                Config(experiment=experiment, network=NETWORKS[name]())
            else:
                with pytest.raises(ValueError, match=f"has no {experiment}"):
                    Config(experiment=experiment, network=NETWORKS[name]())

    def test_it_ignores_only_settings_and_sections_that_exist(self, name):
        paths = Config().leaves()
        for ignored in NETWORKS[name].ignored:
            assert any(path == ignored or path.startswith(f"{ignored}.") for path in paths), ignored

    def test_only_medsegdiff_has_an_extra_output(self, name):
        implementation = NETWORKS[name]().implementation()
        assert isinstance(implementation, Implementation)
        assert implementation.extra_output == (name == "medsegdiff")

    def test_a_deterministic_network_has_e1_alone(self, name):
        if NETWORKS[name].deterministic:
            assert NETWORKS[name].experiments == ("e1",)
            assert "diffusion" in NETWORKS[name].ignored


def test_a_network_that_trains_itself_builds_no_module():
    with pytest.raises(NotImplementedError, match="nnunet builds no module"):
        build(NNUNet())
