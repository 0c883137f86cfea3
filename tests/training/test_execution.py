"""Precision, compilation and memory layout, by the configuration and the device."""

import pytest
import torch
from small_networks import NETWORKS

from diffseg.config import Config
from diffseg.errors import UserError
from diffseg.networks.protocol import Dimensions
from diffseg.training import execution
from diffseg.training.execution import (
    COMPILED_FROM,
    choose_device,
    compile_for_inference,
    compile_for_training,
    compiles_training,
    inference_layout,
    precision,
    training_execution,
    training_layout,
)

CPU = torch.device("cpu")


@pytest.fixture
def machine(monkeypatch):
    """A function that makes a CPU with or without bf16 and a compiler."""

    def made(bf16: bool = True, compiler: bool = True) -> torch.device:
        monkeypatch.setattr(execution, "has_bf16", lambda device: bf16)
        monkeypatch.setattr(execution, "_has_compiler", lambda: compiler)
        return CPU

    return made


@pytest.mark.parametrize(("asked", "bf16", "found"), [
    ("bf16", True, "bf16"), ("bf16", False, "float32"), ("float32", True, "float32"), ("float32", False, "float32"),
])  # fmt: skip
def test_bf16_is_used_where_it_is_configured_and_the_device_has_it(asked, bf16, found, tiny, machine):
    config, device = tiny(training__precision=asked), machine(bf16)
    assert precision(config, device) == found
    with execution.autocast(config, device):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == {"bf16": torch.bfloat16, "float32": torch.float32}[found]


@pytest.fixture
def cudnn(monkeypatch):
    """cuDNN's settings, restored after the test."""
    for name, value in (("allow_tf32", True), ("deterministic", False)):
        monkeypatch.setattr(torch.backends.cudnn, name, value)
    return torch.backends.cudnn


def test_gpus_compute_in_full_float32_and_deterministically(cudnn):
    choose_device("cpu")
    assert (cudnn.allow_tf32, cudnn.deterministic) == (True, False)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert (cudnn.allow_tf32, cudnn.deterministic) == (False, True)
    assert not torch.are_deterministic_algorithms_enabled()
    choose_device("cuda", unordered_sums=True)
    assert torch.are_deterministic_algorithms_enabled()
    choose_device("cuda")
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(("available", "kind"), [(False, "cpu"), (True, "cuda")])
def test_a_gpu_is_the_default_where_there_is_one(available, kind, cudnn, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert choose_device().type == kind
    assert choose_device("cpu") == CPU


class TestCompilation:
    def test_by_default_long_training_in_bf16_on_cpus_is_compiled(self, tiny, machine):
        def long(precision="bf16", steps=COMPILED_FROM):
            return tiny(training__compile=None, training__precision=precision, training__steps=steps)

        assert compiles_training(long(), machine())
        assert not compiles_training(long(steps=COMPILED_FROM - 1), machine())
        assert not compiles_training(long(precision="float32"), machine())
        assert not compiles_training(long(), machine(bf16=False))
        assert not compiles_training(long(), machine(compiler=False))
        assert not compiles_training(long(), torch.device("cuda"))

    def test_the_configuration_decides(self, tiny, machine):
        assert compiles_training(tiny(training__compile=True), machine(bf16=False))
        long = {"training__precision": "bf16", "training__steps": COMPILED_FROM}
        assert not compiles_training(tiny(training__compile=False, **long), machine())

    def test_without_a_compiler_training_is_refused_in_a_sentence_and_prediction_runs_eagerly(self, tiny, machine):
        network, asked, device = torch.nn.Identity(), tiny(training__compile=True), machine(compiler=False)
        with pytest.raises(UserError, match="install g\\+\\+"):
            compile_for_training(network, asked, device)
        assert compile_for_inference(network, asked, device) is network
        assert not compiles_training(asked, device)

    def test_what_was_compiled_is_kept_with_the_decoded_data(self, tiny, tmp_path, monkeypatch):
        import torch._inductor.runtime.cache_dir_utils as inductor

        from diffseg import trial

        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
        monkeypatch.setattr(execution, "_compile", lambda network, device: network)
        trial.run(tiny(training__compile=True), None, tmp_path / "run", cache=tmp_path / "cache", device="cpu")
        assert inductor.cache_dir() == str(tmp_path / "cache" / "compiled")
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")

    @pytest.mark.parametrize("name", ["ensemdiff", "segdiff", "medsegdiff", "medsegdiff v1", "ambdiff"])
    def test_on_gpus_blocks_are_compiled_alone_once_each(self, name, tiny, machine, monkeypatch):
        machine()
        asked, compiled = tiny(training__compile=True), []
        monkeypatch.setattr(torch.nn.Module, "compile", lambda block, dynamic: compiled.append((block, dynamic)))
        network = (
            Config()
            .with_leaves({"network": name.split()[0]} | NETWORKS[name])
            .network.implementation()
            .build(Dimensions(size=64))
        )
        assert compile_for_training(network, asked, torch.device("cuda")) is network
        alone = [block for block, dynamic in compiled if dynamic is False]
        assert len(alone) == len(compiled) == len(set(alone))
        inside = {id(weight) for block in alone for weight in block.parameters()}
        assert len(inside) == sum(len(list(block.parameters())) for block in alone)  # no block lies in another
        convolutions = [part for part in network.modules() if isinstance(part, torch.nn.Conv2d)]
        assert sum(id(part.weight) in inside for part in convolutions) > 0.6 * len(convolutions)

    @pytest.mark.slow
    def test_prediction_is_compiled_if_configured_and_if_no_samples_stop_early(self, tiny, machine):
        network, asked = torch.nn.Identity(), tiny(training__compile=True)
        assert compile_for_inference(network, asked, machine()) is not network
        assert compile_for_inference(network, asked.with_leaves({"inference.settled": 3}), machine()) is network
        long = tiny(training__compile=None, training__precision="bf16", training__steps=COMPILED_FROM)
        assert compile_for_inference(network, long, machine()) is network


def test_memory_layouts_are_the_fastest_measured_ones(tiny, machine):
    last, first = torch.channels_last, torch.contiguous_format
    device = machine()
    full, half = tiny(training__precision="float32"), tiny(training__precision="bf16")
    assert (training_layout(full, device), inference_layout(full, device)) == (first, last)
    assert (training_layout(half, device), inference_layout(half, device)) == (first, first)
    for layout in (training_layout, inference_layout):
        assert layout(half.with_leaves({"training.compile": True}), device) == last
        assert layout(half, torch.device("cuda")) == last


@pytest.mark.parametrize(
    ("leaves", "device", "workers", "expected"),
    [
        ({}, "cuda", 1, "graph"),
        ({}, "cuda", 2, "eager"),
        ({}, "cpu", 1, "eager"),
        ({"diffusion.density": "adaptive"}, "cuda", 1, "graph"),
        ({"training.compile": True}, "cuda", 1, "compiled"),
    ],
)
def test_steps_are_captured_on_one_gpu_unless_they_are_compiled(leaves, device, workers, expected, monkeypatch):
    monkeypatch.setattr("diffseg.training.execution._has_compiler", lambda: True)
    assert (
        training_execution(Config().with_leaves({"training.compile": False} | leaves), torch.device(device), workers)
        == expected
    )
