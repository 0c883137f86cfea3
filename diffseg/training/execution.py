"""How a network is computed on a device: precision, memory layout, compiled or not. `diffseg bench` measures what each brings."""

import os
import shutil
import sysconfig
from pathlib import Path

import torch
from torch import nn

from diffseg.config import Config
from diffseg.errors import UserError

COMPILED_FROM = 10_000  # steps of training, which repay the two to three minutes that compiling takes on two cores


def computing_device(asked: torch.device | str | None = None) -> torch.device:
    """What is asked for, or else a GPU if there is one.

    On GPUs, convolutions are made repeatable, since a resumed run must end as one that was not stopped, and float32's are not
    rounded to TF32's ten bits, which is cuDNN's default.
    """
    device = torch.device(asked or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False
    return device


def precision(config: Config, device: torch.device) -> str:
    """float32 or bf16: what the device computes a configuration in."""
    return config.training.precision if has_bf16(device) else "float32"


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """bf16 where the configuration asks for it and the device computes in it; float32 elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision(config, device) == "bf16")


def has_bf16(device: torch.device) -> bool:
    """GPUs since Ampere have it, and processors with AVX-512 BF16 or AMX; on others it is slower than float32."""
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def compiles(config: Config, device: torch.device) -> bool:
    """Whether training is compiled: as the configuration says, or, if it leaves that open, where it has been seen to pay, on
    processors that compute in bf16, from COMPILED_FROM steps on. Not on machines without a compiler.
    """
    if not _has_compiler():
        return False
    if config.training.compile is not None:
        return config.training.compile
    return config.training.steps >= COMPILED_FROM and device.type == "cpu" and precision(config, device) == "bf16"


def _has_compiler() -> bool:
    """What torch.compile's own kernels are built with."""
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return bool(shutil.which(os.environ.get("CXX", "g++"))) and headers.exists()


def training_layout(config: Config, device: torch.device) -> torch.memory_format:
    """What convolutions like best: channels last on GPUs and in compiled networks."""
    last = device.type == "cuda" or compiles(config, device)
    return torch.channels_last if last else torch.contiguous_format


def inference_layout(config: Config, device: torch.device) -> torch.memory_format:
    """What convolutions like best: channels last but in eager bf16 on processors."""
    last = device.type == "cuda" or precision(config, device) == "float32" or _compiles_predictions(config, device)
    return torch.channels_last if last else torch.contiguous_format


def for_training(network: nn.Module, config: Config, device: torch.device) -> nn.Module:
    """The network, compiled if `compiles`; its weights are the same tensors.

    A graph a batch size, so that a resumed training computes by the same graphs.
    Raises UserError if the configuration asks for what the machine has no compiler for; what was trained is predicted with there.
    """
    if config.training.compile and not _has_compiler():
        raise UserError(
            "training.compile=true needs a C++ compiler and Python's headers, which this machine lacks: install g++ and "
            "python3-dev, or leave the setting out"
        )
    return torch.compile(network, dynamic=False) if compiles(config, device) else network


def for_inference(network: nn.Module, config: Config, device: torch.device) -> nn.Module:
    """The network for whole batches, compiled if the configuration asks for it; its weights are the same tensors."""
    return torch.compile(network, dynamic=False) if _compiles_predictions(config, device) else network


def _compiles_predictions(config: Config, device: torch.device) -> bool:
    """Not where samples that have settled leave their batch: a graph for all sizes takes minutes to compile."""
    return bool(config.training.compile) and compiles(config, device) and not config.inference.settled
