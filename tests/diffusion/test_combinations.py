"""Warnings of combinations that are known to go wrong; published settings give none."""

import json
import re

import pytest
from click.testing import CliRunner

from diffseg import trial
from diffseg.config import NETWORKS, Config, presets
from diffseg.diffusion.combinations import find_problems
from studies.commands.program import main
from studies.planning.estimate import estimate_cost

HEUN = {
    "diffusion.target": "x0",
    "diffusion.schedule": "cosine",
    "diffusion.input_scale": 0.1,
    "inference.sampler": "heun",
}
GOOD = [
    {**HEUN, "inference.steps": 10},
    {**HEUN, "inference.steps": 100, "inference.grid": "log-snr"},
    {**HEUN, "inference.steps": 10, "inference.grid": "edm", "inference.sampler": "ddim"},
    {},
    {"diffusion.weighting": "min-snr"},
    {"diffusion.weighting": "sigmoid", "diffusion.bias": -4.0, "diffusion.decoupled": True},
    {"diffusion.target": "v", "diffusion.ends": "zero-terminal"},
    {"diffusion.target": "x0", "diffusion.schedule": "cosine", "diffusion.input_scale": 0.1},
    {"diffusion.target": "x0", "diffusion.weighting": "uniform"},
    {"diffusion.density": "profile", "diffusion.profile": [[-9.0, 0.0], [0.0, 1.0]], "diffusion.mixing": 0.1},
]
BAD = [
    ({"diffusion.weighting": "uniform"}, r"weighting uniform weighs the ε-loss .* times more"),
    ({"diffusion.weighting": "truncated-snr"}, r"known to diverge: take target v or x0"),
    ({"diffusion.ends": "zero-terminal"}, r"last log-SNR of -20.0 magnifies the network's error 22,026-fold"),
    ({"diffusion.input_scale": 0.1}, r"last log-SNR of -14.7 magnifies"),
    ({"diffusion.log_snr_min": -5.0}, r"last log-SNR is -5.0, at which large masks still show through"),
    (
        {"diffusion.density": "profile", "diffusion.profile": [[-4.0, 0.0], [0.0, 1.0]]},
        r"0 over \d\d% of the noise levels",
    ),
    ({**HEUN, "inference.grid": "log-snr", "inference.steps": 20}, r"falls to 1/7\.39, and exaggerates"),
    ({**HEUN, "inference.grid": "edm", "inference.steps": 10}, r"heun with 10 evaluations on the grid edm"),
]


@pytest.mark.parametrize("leaves", GOOD)
def test_good_combinations_give_no_warning(leaves):
    assert find_problems(Config().with_leaves(leaves)) == []


@pytest.mark.parametrize(("network", "preset"), [(n, p) for n in NETWORKS for p in presets.names(n)])
def test_published_settings_give_no_warning(network, preset):
    for experiment in ("e1", "e2", "e3", "e4"):
        if experiment in NETWORKS[network].experiments:
            config = Config().with_leaves({"network": network, "preset": preset, "experiment": experiment})
            assert find_problems(config) == []


@pytest.mark.parametrize(("leaves", "words"), BAD)
def test_a_bad_combination_gives_one_sentence(leaves, words):
    config = Config().with_leaves(leaves)
    (sentence,) = find_problems(config)
    assert re.search(words, sentence)
    assert "\n" not in sentence
    for experiment in ("e1", "e3", "e4"):  # they do not use these settings, or are not sampled from
        assert find_problems(config.with_leaves({"experiment": experiment})) == []


def test_two_faults_give_two_warnings():
    assert (
        len(find_problems(Config().with_leaves({"diffusion.weighting": "uniform", "diffusion.schedule": "cosine"})))
        == 2
    )


def test_the_cost_includes_the_estimates_and_channels_of_self_conditioning(tiny):
    plain, guided = (
        estimate_cost(tiny(diffusion__self_conditioning=on, inference__ensemble=1)) for on in (False, True)
    )
    assert guided.parameters - plain.parameters == 9 * 32  # of the first convolution
    assert 1 < guided.flops / plain.flops < 3.5 / 3


def test_the_cost_includes_recycling_and_the_copies_of_averages(tiny):
    long = {"training__steps": 1000, "inference__ensemble": 1}
    plain, recycled = (estimate_cost(tiny(diffusion__recycling=share, **long)) for share in (0.0, 0.5))
    assert recycled.flops / plain.flops == pytest.approx(3.5 / 3, rel=0.02)
    copied = estimate_cost(tiny(training__ema_copies=8, **long))
    assert copied.disk == 17 * plain.disk
    assert copied.memory > plain.memory


def test_an_ended_trial_with_copies_of_averages_takes_the_disk_that_was_planned(tiny, tmp_path):
    config = tiny(training__ema_copies=4)
    trial.run(config, None, tmp_path, device="cpu")
    (left,) = tmp_path.glob("step-*-weights-*.pt")
    assert left.stat().st_size == pytest.approx(estimate_cost(config).disk, rel=0.05)


def test_plan_prints_warnings_with_their_trials(tmp_path):
    words = ["plan", "quickstart", "diffusion.target=epsilon", "diffusion.ends=zero-terminal", "--store", str(tmp_path)]
    found = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)["warnings"]
    ((sentence, trials),) = found.items()
    assert "magnifies" in sentence
    assert len(trials) == 3 + 1  # one that the search starts from
    assert all(trial.startswith("e2-") for trial in trials)
    assert "Mind that diffusion.target=epsilon" in CliRunner().invoke(main, words).output
