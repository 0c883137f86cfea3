"""How a network runs on a device: precision, memory layout, compilation. `diffseg bench` measures what each gains."""

import os
import shutil
import sysconfig
from pathlib import Path
from typing import cast

import torch
from torch import nn

from diffseg.config import Config
from diffseg.errors import UserError

COMPILED_FROM = 10_000  # training steps that repay the two to three minutes of compiling on two cores


def choose_device(requested: torch.device | str | None = None, unordered_sums: bool = False) -> torch.device:
    """Return the requested device; by default a GPU if there is one, else the CPU.

    On GPUs, this makes cuDNN and cuBLAS deterministic, since a resumed run must end as one that was not stopped, and turns
    off cuDNN's default of rounding float32 to TF32's ten bits in convolutions.

    Args:
        requested: The device to use.
        unordered_sums: Whether the network has operations that add in no fixed order, unless torch uses its slower
            deterministic ones everywhere.
    """
    device = torch.device(requested or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which cuBLAS reads when it is first used
        torch.use_deterministic_algorithms(unordered_sums, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # not needed for it
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False
    return device


def precision(config: Config, device: torch.device) -> str:
    """Return the precision that a configuration is computed in on a device, float32 or bf16."""
    return config.training.precision if has_bf16(device) else "float32"


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """Return the context to run a network in: bf16 where it is configured and the device has it, else float32.

    A CUDA graph must not keep weights that were cast before it was captured, so nothing is cached during a capture.
    """
    capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    enabled = precision(config, device) == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=not capturing)


def has_bf16(device: torch.device) -> bool:
    """Return whether a device computes in bf16: GPUs since Ampere, CPUs with AVX-512 BF16 or AMX.

    On other CPUs bf16 is slower than float32.
    """
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def compiles_training(config: Config, device: torch.device) -> bool:
    """Return whether training is compiled.

    training.compile decides. If it is None, training is compiled where this was measured to pay: from COMPILED_FROM steps
    on, on CPUs that compute in bf16. Without a compiler nothing is compiled.
    """
    if not _has_compiler():
        return False
    if config.training.compile is not None:
        return config.training.compile
    return config.training.steps >= COMPILED_FROM and device.type == "cpu" and precision(config, device) == "bf16"


def _has_compiler() -> bool:
    """Return whether there are a C++ compiler and Python's headers, which torch.compile needs."""
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return bool(shutil.which(os.environ.get("CXX", "g++"))) and headers.exists()


def training_execution(config: Config, device: torch.device, workers: int = 1) -> str:
    """Return how training steps run: "compiled", "graph" (captured as CUDA graphs) or "eager".

    Steps of several workers communicate, and run eagerly.
    """
    if compiles_training(config, device):
        return "compiled"
    return "graph" if device.type == "cuda" and workers == 1 else "eager"


def captures_predictions(config: Config, device: torch.device) -> bool:
    """Return whether predictions are replayed as CUDA graphs.

    Compiled ones are not, and where finished samples leave their batch, the host waits for the device.
    """
    return device.type == "cuda" and not config.inference.settled and not _compiles_predictions(config, device)


def training_layout(config: Config, device: torch.device) -> torch.memory_format:
    """Return the fastest memory layout of training: channels last on GPUs and in compiled networks."""
    last = device.type == "cuda" or compiles_training(config, device)
    return torch.channels_last if last else torch.contiguous_format


def inference_layout(config: Config, device: torch.device) -> torch.memory_format:
    """Return the fastest memory layout of inference: channels last, except in eager bf16 on CPUs."""
    last = device.type == "cuda" or precision(config, device) == "float32" or _compiles_predictions(config, device)
    return torch.channels_last if last else torch.contiguous_format


def move_network(network: nn.Module, device: torch.device, layout: torch.memory_format) -> nn.Module:
    """Move a network to a device, its convolutions in a memory layout, and return it."""
    return network.to(device).to(memory_format=layout)


def keep_compiled(cache: Path) -> None:
    """Keep what torch.compile makes in a folder, for later trials. Only a start without it takes minutes."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "compiled"))


def compile_for_training(network: nn.Module, config: Config, device: torch.device) -> nn.Module:
    """Return the network, compiled if `compiles_training`. Its weights are the same tensors.

    Each batch size gets a graph of its own, so that a resumed training runs the same graphs.

    Raises:
        UserError: training.compile is true and there is no compiler. Inference then runs eagerly instead.
    """
    if config.training.compile and not _has_compiler():
        raise UserError(
            "training.compile=true needs a C++ compiler and Python's headers, which this machine lacks: install g++ and "
            "python3-dev, or leave the setting out"
        )
    return _compile(network, device) if compiles_training(config, device) else network


def compile_for_inference(network: nn.Module, config: Config, device: torch.device) -> nn.Module:
    """Return the network for whole batches, compiled if training.compile is true. Its weights are the same tensors."""
    return _compile(network, device) if _compiles_predictions(config, device) else network


def _compiles_predictions(config: Config, device: torch.device) -> bool:
    """Return whether prediction is compiled.

    It is not where finished samples leave their batch: compiling a graph for every batch size would take minutes. Nor is it
    where units are dropped, which compiled networks do not do in prediction.
    """
    inference = config.inference
    varied = bool(inference.settled) or inference.dropout
    return bool(config.training.compile) and compiles_training(config, device) and not varied


def _compile(network: nn.Module, device: torch.device) -> nn.Module:
    """Return the network, compiled whole on CPUs and block by block on GPUs.

    Blocks of equal shapes share what is compiled. On CPUs a network compiled whole is a tenth faster. On GPUs compiling it
    whole took longer than most trainings do (over 80 s on four host cores).
    """
    blocks = [module for module in network.modules() if getattr(module, "COMPILED_ALONE", False)]
    if device.type != "cuda" or not blocks:
        return cast(nn.Module, torch.compile(network, dynamic=False))
    # Each shape of a class of blocks counts as a compilation. Beyond the limit, blocks run eagerly.
    torch._dynamo.config.recompile_limit = 256
    for block in blocks:
        block.compile(dynamic=False)
    return network
