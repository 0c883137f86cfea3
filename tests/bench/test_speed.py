"""Promised limits of costs, as ratios of times within one run."""

import os
import platform
import statistics
import subprocess
import sys
import time

import pytest
import torch

from diffseg import data
from diffseg.bench import peers
from diffseg.config import Config
from diffseg.experiments import build_network
from diffseg.training.batches import Batches
from diffseg.training.hooks import Hooks
from diffseg.training.loop import train
from diffseg.training.state import start_or_resume
from studies.engine.environment import MALLOC

SEGDIFF = {  # its published augmentation, on crops
    "data.augment.flips": "both",
    "data.augment.degrees": 22.0,
    "data.augment.zoom": [0.75, 1.25],
    "data.augment.brightness": 0.4,
    "data.augment.contrast": 0.4,
    "data.augment.saturation": 0.4,
    "data.augment.hue": 0.1,
    "data.normalise": "standard",
}


@pytest.mark.slow
@pytest.mark.parametrize(("augment", "limit"), [({"data.augment.flips": "symmetries"}, 0.03), (SEGDIFF, 0.05)])
def test_loading_a_batch_is_a_small_share_of_a_step(augment, limit, tmp_path, monkeypatch):
    """At batch 16 and 64 px, all but forward pass, backward pass and optimiser takes less than `limit` of a step."""
    leaves = {
        "data.size": 64,
        **augment,
        "network.width": 32,
        "network.multipliers": [1, 1, 2, 2],
        "network.blocks": 1,
        "network.attention": [8],
        "training.batch": 16,
        "training.steps": 12,
        "training.log_every": 4,
        "training.snapshots": [],
    }
    config = Config().with_leaves(leaves).resolved()
    split = data.load(config.data, None).train
    state = start_or_resume(config, tmp_path, torch.device("cpu"))
    inside = 0.0

    def timed(function):
        def wrapper(*args, **kwargs):
            nonlocal inside
            clock = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                inside += time.perf_counter() - clock

        return wrapper

    monkeypatch.setattr(torch.Tensor, "backward", timed(torch.Tensor.backward))
    monkeypatch.setattr(state.network, "forward", timed(state.network.forward))
    monkeypatch.setattr(state.optimiser, "step", timed(state.optimiser.step))
    monkeypatch.setattr(torch, "_foreach_lerp_", timed(torch._foreach_lerp_))
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", timed(torch.nn.utils.clip_grad_norm_))
    clock = time.perf_counter()
    train(config, split, state, tmp_path, lambda state: [], (), Hooks())
    share = 1 - inside / (time.perf_counter() - clock)
    print(f"outside forward, backward, clipping, optimiser and EMA: {share:.2%}")
    assert share < limit


@pytest.mark.slow
def test_loading_a_batch_takes_a_small_part_of_forward_and_backward(tiny):
    config = tiny(data__train_images=40, data__augment__flips="symmetries", training__batch=16)
    batches, network = Batches(data.load(config.data, None).train, config), build_network(config)
    images, masks = batches(0)

    def gather(step):
        batches(step)

    def learn(step):
        network(masks.float(), torch.zeros(16), images.float()).square().mean().backward()

    gathered, learnt = (min(_seconds(action, step) for step in range(20)) for action in (gather, learn))
    print(
        f"{gathered / learnt:.1%} of a forward and backward pass of {sum(p.numel() for p in network.parameters())} weights"
    )
    assert gathered < 0.2 * learnt


def _seconds(action, step):
    clock = time.perf_counter()
    action(step)
    return time.perf_counter() - clock


@pytest.mark.slow
@pytest.mark.parametrize("network", ["ensemdiff", "segdiff", "medsegdiff", "medsegdiff-v1", "ambdiff"])
def test_a_step_costs_no_more_than_the_published_networks(network):
    """Both take turns. The published form has the same layers, with attention as the published code computes it."""
    name, _, version = network.partition("-")
    preset = {"ensemdiff": "brats", "segdiff": "monuseg", "medsegdiff": "isic", "ambdiff": "lidc"}[name]
    preset = f"debug/{preset}-v1" if version else f"debug/{preset}"
    config = Config().with_leaves({"network": name, "preset": preset, "network.attention": [4, 8]}).resolved()
    ours = build_network(config)
    plain = peers.published_form(ours)
    inputs = torch.randn(4, 1, 64, 64), torch.arange(4), torch.randn(4, 3, 64, 64)

    def step(model):
        clock = time.perf_counter()
        model(*inputs).square().mean().backward()
        return time.perf_counter() - clock

    with torch.no_grad():
        assert torch.allclose(ours.eval()(*inputs), plain.eval()(*inputs), atol=1e-5)
    pairs = [(step(ours), step(plain)) for _ in range(12)][2:]
    ratio = statistics.median(mine for mine, _ in pairs) / statistics.median(theirs for _, theirs in pairs)
    print(f"{network}: {ratio:.2f} of the plain step")
    assert ratio < 1.05


MAKE_AND_FREE = """
import resource, threading, torch
def make_and_free():
    for round in range(30):
        if round == 20:  # the heap has found its size
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**24)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=make_and_free)  # as in Ray Train
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="these are settings of glibc")
def test_workers_keep_the_memory_of_freed_tensors():
    """A tensor of 64 MiB has 16,384 pages; few of them fault again."""
    command = [sys.executable, "-c", MAKE_AND_FREE]
    done = subprocess.run(command, env=os.environ | MALLOC, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000
