"""Averages of any length after the training, compared with averages of that length kept while it ran."""

import pytest
import torch
from torch import nn

from diffseg import trial
from diffseg.errors import ConfigError
from diffseg.training import checkpoints
from diffseg.training.posthoc_ema import LENGTHS, PowerAverages, combine, exponent
from diffseg.training.state import load_trained


def wander(steps, copies, lengths):
    """Let weights drift to a target with noise; return (averages kept, {length: the average of that length})."""
    draw, network = torch.Generator().manual_seed(1), nn.Linear(50, 40, bias=False)
    start, target = torch.randn(2, 40, 50, generator=draw)
    kept, direct = PowerAverages(network, steps, copies), dict.fromkeys(lengths, torch.zeros(40, 50))
    with torch.no_grad():
        network.weight.copy_(start)
        for step in range(1, steps + 1):
            network.weight.add_(0.01 * (target - network.weight) + 0.05 * torch.randn(40, 50, generator=draw))
            kept.update(network, step)
            for length in lengths:
                share = (1 - 1 / step) ** (exponent(length) + 1)
                direct[length] = torch.lerp(network.weight, direct[length], share)
    return kept, direct


@pytest.mark.sampled(1)
@pytest.mark.parametrize("steps", [400, 3000])
def test_averages_of_other_lengths_equal_those_kept_in_training(steps):
    kept, direct = wander(steps, 32, (0.03, 0.05, 0.08, 0.1, 0.15))
    for length, expected in direct.items():
        found = combine(kept.copies, length)["weight"]
        assert float((found - expected).norm() / expected.norm()) < 1e-3
    assert not torch.allclose(direct[0.03], direct[0.15], rtol=1e-2)


@pytest.mark.parametrize(("length", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_exponents_equal_the_published_ones(length, gamma):
    assert exponent(length) == pytest.approx(gamma, abs=5e-3)
    t = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    profile = t**gamma / (t**gamma).sum()
    mean = (t * profile).sum()
    assert float(((t - mean).square() * profile).sum().sqrt()) == pytest.approx(length, rel=1e-3)


def test_copies_are_made_in_equal_distances():
    kept, _ = wander(100, 4, ())
    assert [(one.step, one.length) for one in kept.copies] == [
        (step, length) for step in (25, 50, 75, 100) for length in LENGTHS
    ]


def test_trials_that_differ_in_length_share_one_training_which_resumes_exactly(tiny, tmp_path):
    settings = {
        "training__steps": 24,
        "training__ema_copies": 8,
        "training__checkpoint_every": 10,
        "training__ema": 0.5,
    }
    plain = tiny(**settings)
    runs = {
        length: trial.run(tiny(inference__ema_length=length, **settings), None, tmp_path / "one", device="cpu").trial
        for length in (None, 0.05, 0.2)
    }
    assert runs[0.05]["resumed_seconds"] == runs[0.2]["resumed_seconds"] == runs[None]["train_seconds"]
    assert len({run["brier"] for run in runs.values()}) == 3
    trial.run(plain, None, tmp_path / "two", device="cpu")
    for path in (tmp_path / "two").glob("step-00000024*"):
        path.unlink()
    again = trial.run(tiny(inference__ema_length=0.2, **settings), None, tmp_path / "two", device="cpu").trial
    assert again["brier"] == runs[0.2]["brier"]


def test_a_loaded_network_has_the_average_of_its_length(tiny, tmp_path):
    settings = {"training__steps": 16, "training__ema_copies": 8}
    config = tiny(inference__ema_length=0.1, **settings)
    trial.run(config, None, tmp_path, device="cpu")
    copies = checkpoints.load(tmp_path, "cpu")["averages"]["copies"]
    last = next(one for one in copies if one["step"] == 16 and one["length"] == 0.1)
    network = load_trained(config.resolved(), tmp_path, torch.device("cpu"))
    for name, parameter in network.named_parameters():
        assert torch.allclose(parameter, last["weights"][name], atol=1e-5)


def test_a_length_needs_copies(tiny):
    with pytest.raises(ConfigError, match="ema_copies is 0"):
        tiny(inference__ema_length=0.1)
