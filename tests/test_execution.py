"""What a network is computed in: by the configuration and the device."""

import pytest
import torch

from diffseg import execution
from diffseg.errors import UserError
from diffseg.execution import compiles, inference_layout, precision, training_layout

CPU = torch.device("cpu")


@pytest.fixture
def machine(monkeypatch):
    """A processor that computes in bf16 or does not, with a compiler or without."""

    def made(bf16: bool = True, compiler: bool = True) -> torch.device:
        monkeypatch.setattr(execution, "has_bf16", lambda device: bf16)
        monkeypatch.setattr(execution, "_has_compiler", lambda: compiler)
        return CPU

    return made


@pytest.mark.parametrize(("asked", "bf16", "found"), [
    ("bf16", True, "bf16"), ("bf16", False, "float32"), ("float32", True, "float32"), ("float32", False, "float32"),
])  # fmt: skip
def test_bf16_is_computed_in_where_it_is_asked_for_and_the_device_has_it(asked, bf16, found, tiny, machine):
    config, device = tiny(training__precision=asked), machine(bf16)
    assert precision(config, device) == found
    with execution.autocast(config, device):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == {"bf16": torch.bfloat16, "float32": torch.float32}[found]


def test_without_a_compiler_compiling_is_refused_in_a_sentence(tiny, machine):
    machine(compiler=False)
    assert not compiles(tiny())
    with pytest.raises(UserError, match="install g\\+\\+"):
        compiles(tiny(training__compile=True))


def test_where_samples_leave_their_batch_nothing_is_compiled(tiny, machine):
    network, config = torch.nn.Identity(), tiny(training__compile=True)
    machine()
    assert execution.for_inference(network, config) is not network
    assert execution.for_inference(network, config.with_leaves({"inference.settled": 3})) is network
    assert execution.for_inference(network, tiny()) is network


def test_layouts_are_those_that_were_measured_to_be_fast(tiny, machine):
    last, first = torch.channels_last, torch.contiguous_format
    device = machine()
    full, half = tiny(training__precision="float32"), tiny(training__precision="bf16")
    assert (training_layout(full, device), inference_layout(full, device)) == (first, last)
    assert (training_layout(half, device), inference_layout(half, device)) == (first, first)
    assert training_layout(tiny(training__compile=True), device) == last
    for layout in (training_layout, inference_layout):
        assert layout(half, torch.device("cuda")) == last
