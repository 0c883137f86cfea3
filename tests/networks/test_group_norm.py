"""Group normalisation on GPUs: its kernels against torch's in double precision, run by Triton's interpreter on a CPU."""

import os
import subprocess
import sys

import pytest

COMPARE = """
import torch
import torch.nn.functional as F
from diffseg.networks.group_norm_kernels import NormaliseGroups

torch.manual_seed(0)
for batch, channels, height, width, groups in [(1, 96, 9, 9, 32), (2, 8, 33, 34, 4)]:
    for silu in (False, True):
        for dtype, tolerance in ((torch.float32, 3e-5), (torch.bfloat16, 1e-2)):
            x = 5 + 3 * torch.randn(batch, channels, height, width)
            leaves = x.to(dtype), torch.randn(channels), torch.randn(channels)
            gradient = torch.randn_like(x).to(dtype)
            ours = [leaf.clone().requires_grad_() for leaf in leaves]
            exact = [leaf.double().requires_grad_() for leaf in leaves]
            found = NormaliseGroups.apply(*ours, groups, 1e-5, silu, dtype)
            assert found.dtype == dtype and found.is_contiguous(memory_format=torch.channels_last)
            wanted = F.group_norm(exact[0], groups, *exact[1:], 1e-5)
            wanted = F.silu(wanted) if silu else wanted
            pairs = [(found, wanted), *zip(torch.autograd.grad(found, ours, gradient),
                                           torch.autograd.grad(wanted, exact, gradient.double()))]
            for one, other in pairs:
                torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance * other.abs().mean().item())
"""
NUMBERS = ("positions", "channels", "parts", "groups")
CONSTANTS = {"SILU": True, "BLOCKS": 4, "ROWS": 32, "COLUMNS": 128, "SPAN": 128, "PARTS": 64, "WIDTH": 4}
MAPS = ("x", "y", "dy", "dx")


def test_the_kernels_compute_what_torch_computes():
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    found = subprocess.run([sys.executable, "-c", COMPARE], env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["_moments", "_join_moments", "_normalise", "_sum_gradients", "_propagate"])
def test_the_kernels_compile_for_gpus(name, precision):
    """To machine code, for which no GPU is needed."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget

    from diffseg.networks import group_norm_kernels

    kernel = getattr(group_norm_kernels, name)
    kinds = dict.fromkeys(NUMBERS, "i32") | dict.fromkeys(CONSTANTS, "constexpr") | dict.fromkeys(MAPS, f"*{precision}")
    signature = {argument: kinds.get(argument, "*fp32") for argument in kernel.arg_names} | (
        {"eps": "fp32"} if "eps" in kernel.arg_names else {}
    )
    constants = {
        (kernel.arg_names.index(key),): CONSTANTS[key] for key, kind in signature.items() if kind == "constexpr"
    }
    source = triton.compiler.ASTSource(fn=kernel, signature=signature, constexprs=constants)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
