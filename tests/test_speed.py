"""Costs that are promised, as ratios within one run."""

import time

import pytest
import torch

from diffseg import data
from diffseg.batches import Batches
from diffseg.config import Config
from diffseg.training import Hooks, start, train


@pytest.mark.slow
def test_gathering_is_a_small_share_of_a_step(tmp_path, monkeypatch):
    """At batch 16 and 64 px, what a step does besides forward, backward and optimiser takes less than 3 % of it."""
    leaves = {
        "data.size": 64,
        "data.augment.flips": "symmetries",
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
    state = start(config, tmp_path, torch.device("cpu"))
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
    assert share < 0.03


def test_a_batch_is_gathered_in_milliseconds(tiny):
    batches = Batches(
        data.load(tiny(data__train_images=40).data, None).train,
        tiny(data__augment__flips="symmetries", training__batch=16),
    )
    batches(0)
    best = min(_seconds(batches, step) for step in range(20))
    assert best < 0.005


def _seconds(batches, step):
    clock = time.perf_counter()
    batches(step)
    return time.perf_counter() - clock
