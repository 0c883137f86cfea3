"""Counted noise: Philox's published words, its statistics, and its kernel against the twin in torch."""

import os
import subprocess
import sys

import pytest
import torch
from scipy import stats

from diffseg.prediction.philox import compute_windows, normal_windows, philox

ONES = 0xFFFFFFFF
COMPARE = """
import torch
from diffseg.prediction.philox import compute_windows
from diffseg.prediction.philox_kernel import launch

keys, members = torch.tensor([0, 12345678901234567, 2**62 + 5]), torch.tensor([0, 3, 7])
corners = torch.tensor([[0, 0], [5, 9], [1000, 2]])
for channels in (1, 2, 4, 5):
    for size in (8, 33):
        ours, theirs = (draw(keys, members, corners, 3, channels, size) for draw in (launch, compute_windows))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
"""


def maps(keys=(1,), members=(0,), draw=0, channels=1, size=32, corner=(0, 0)):
    """The noise of each key and member, in turn."""
    pairs = torch.tensor([(key, member) for key in keys for member in members])
    corners = torch.tensor(corner).expand(len(pairs), 2)
    return normal_windows(pairs[:, 0], pairs[:, 1], corners, draw, channels, size)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # the known answers that Random123 is distributed with
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_the_words_are_those_of_the_published_generator(counter, key, words):
    low, high = key
    signed = (low | high << 32) - (1 << 64 if high >> 31 else 0)  # int64 holds the 64 bits of a key as a signed number
    found = philox(tuple(torch.tensor(word) for word in counter), torch.tensor(signed))
    assert tuple(int(word) for word in found) == words


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_noise_is_normal(channels):
    found = maps(keys=range(64), members=range(4), channels=channels, size=32).double()
    values = found.flatten()
    error = 5 / len(values) ** 0.5  # five standard errors of the mean
    assert abs(values.mean()) < error
    assert abs(values.var() - 1) < error * 2**0.5
    assert abs(values.pow(3).mean()) < error * 15**0.5
    assert abs(values.pow(4).mean() - 3) < error * 96**0.5
    assert stats.kstest(values.numpy(), "norm").pvalue > 0.001
    for channel in range(channels):
        assert stats.kstest(found[:, channel].flatten().numpy(), "norm").pvalue > 0.001


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("images", {"keys": range(0, 64)}, {"keys": range(64, 128)}),
        (
            "images whose keys differ in the upper half",
            {"keys": range(64)},
            {"keys": [k + (1 << 40) for k in range(64)]},
        ),
        ("members", {"members": range(0, 64)}, {"members": range(1, 65)}),
        ("draws", {"members": range(64), "draw": 0}, {"members": range(64), "draw": 1}),
        ("rows", {"members": range(64)}, {"members": range(64), "corner": (1, 0)}),
        ("columns", {"members": range(64)}, {"members": range(64), "corner": (0, 1)}),
        ("rows and columns", {"members": range(64)}, {"members": range(64), "corner": (1, 1)}),
        ("rows, transposed", {"members": range(64)}, {"members": range(64), "transposed": True}),
    ],
)
def test_different_maps_and_neighbours_are_not_correlated(name, one, other):
    other, turned = dict(other), other.get("transposed", False)
    other.pop("transposed", None)
    first, second = maps(**one), maps(**other)
    if turned:  # the diagonal is the same
        second = second.mT
        off = ~torch.eye(32, dtype=torch.bool)
        first, second = first[..., off], second[..., off]
    pairs = torch.stack([first.flatten(), second.flatten()]).double()
    assert abs(torch.corrcoef(pairs)[0, 1]) < 5 / pairs.shape[1] ** 0.5
    assert not torch.equal(first, second)


def test_channels_are_not_correlated():
    found = maps(keys=range(64), channels=6).double().transpose(0, 1).flatten(1)
    correlations = torch.corrcoef(found) - torch.eye(6)
    assert correlations.abs().max() < 5 / found.shape[1] ** 0.5


def test_windows_are_cut_from_one_map():
    whole = maps(size=64, channels=2)
    assert torch.equal(maps(size=16, channels=2, corner=(40, 7)), whole[:, :, 40:56, 7:23])


def test_a_map_does_not_depend_on_its_batch():
    together = maps(keys=(1, 2, 3), members=(0, 1))
    for number, (key, member) in enumerate((key, member) for key in (1, 2, 3) for member in (0, 1)):
        assert torch.equal(maps(keys=(key,), members=(member,))[0], together[number])


def test_values_are_finite_at_the_ends_of_the_words():
    from diffseg.prediction.philox import box_muller

    ends = torch.tensor([0, 1, ONES - 1, ONES])
    for found in box_muller(ends[:, None], ends):
        assert found.isfinite().all()
        assert found.abs().max() < 7


def test_the_kernel_draws_what_its_twin_draws():
    """On a CPU by Triton's interpreter, which a process of its own needs."""
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    found = subprocess.run([sys.executable, "-c", COMPARE], env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_the_kernel_compiles_for_gpus():
    """To machine code, for which no GPU is needed."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget

    from diffseg.prediction.philox_kernel import BLOCK, _draw

    arguments = dict.fromkeys(("keys", "members", "corners"), "*i64") | {"found": "*fp32"}
    numbers = dict.fromkeys(("word", "channels", "size"), "i32")
    source = triton.compiler.ASTSource(
        fn=_draw, signature=arguments | numbers | {"BLOCK": "constexpr"}, constexprs={(7,): BLOCK}
    )
    for capability in (80, 90):
        assert triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]


def test_the_twin_is_what_cpus_are_given():
    keys, members, corners = torch.tensor([5]), torch.tensor([1]), torch.tensor([[2, 3]])
    ours, theirs = (draw(keys, members, corners, 2, 1, 8) for draw in (normal_windows, compute_windows))
    assert torch.equal(ours, theirs)
