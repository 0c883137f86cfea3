"""Every sample of every space is a configuration or is refused in one sentence; initial points lie in their spaces."""

import typing
import warnings

import optuna
import pytest

from diffseg.config import PUBLISHED, Config, Diffusion
from diffseg.errors import ConfigError
from search_spaces import INITIAL_POINTS, SHIPPED, SettingsTrial, parse_space
from studies.search import sampling
from studies.search.search import Search

STARTS = {
    "the defaults": {},
    "x0 with tanh": {"diffusion.target": "x0", "diffusion.activation": "tanh", "diffusion.schedule": "cosine"},
    "cross-entropy": {
        "diffusion.target": "x0",
        "diffusion.activation": "sigmoid",
        "diffusion.loss": "cross-entropy",
    },
    "several classes": {"data.classes": {"early": 1, "late": 2}, "diffusion.fingerprint_class": "late"},
    "exclusive classes": {"data.classes": {"a": 1, "b": 2}},
    "regions": {"data.classes": {"whole": [1, 2], "core": 2}, "data.regions": True, "diffusion.coding": "01"},
    "bits": {"data.classes": {"a": 1, "b": 2}, "diffusion.coding": "bits"},
    "distances": {"data.classes": {"a": 1, "b": 2}, "diffusion.coding": "sdf"},
}
REFUSING = ("cross-entropy", "bits", "distances")  # a loss of a single target, codings that not all losses fit


def drawn(space, count, seed=0):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(count):
        trial = study.ask()
        asked = SettingsTrial(trial)
        parse_space(space).suggest(asked, {})
        assert asked.settings == trial.params
        yield trial.params
        study.tell(trial, 0.0)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("space", SHIPPED)
@pytest.mark.parametrize("start", STARTS)
def test_every_sample_is_a_configuration_or_is_refused_in_a_sentence(space, start):
    base, refused, used = Config().with_leaves(STARTS[start]), [], set()
    for settings in drawn(space, 300):
        assert set(settings) <= {f"diffusion.{name}" for name in Diffusion.model_fields}
        try:
            config = base.with_leaves(settings).resolved()
        except ConfigError as error:
            refused.append(str(error))
            continue
        leaves = config.leaves()
        used |= {path for path, value in settings.items() if leaves[path] == value}
        unused = {path for path, value in settings.items() if leaves[path] != value}
        assert not unused, (unused, settings)  # no setting varies without an effect
    assert used
    assert not any("\n" in sentence for sentence in refused)
    assert not refused or start in REFUSING


def test_everything_varies_all_choices_of_the_design_space_except_duplicates():
    values = {}
    for settings in drawn("everything", 3000):
        for path, value in settings.items():
            values.setdefault(path.removeprefix("diffusion."), set()).add(value)
    same = {  # or left to spaces of one's own
        "schedule": {"linear-continuous", "shifted-cosine", "flow"},
        "target": {"flow", "edm", "x0-epsilon"},
        "weighting": {"profile", "online"},
        "density": {"profile", "independent", "online"},
    }
    for name in ("schedule", "target", "activation", "weighting", "density", "fingerprint", "self_conditioning"):
        allowed = choices(name)
        assert values[name] == allowed - same.get(name, set()), name
    assert {"gamma", "bias", "spread", "temperature", "log_snr_min", "mixing", "unbiased"} <= set(values)


def choices(name):
    return set(typing.get_args(Diffusion.model_fields[name].annotation)) or {False, True}


@pytest.mark.parametrize("start", STARTS)
def test_initial_points_are_configurations_of_any_study(start):
    base = Config().with_leaves(STARTS[start])
    configs = [base.with_leaves(settings).resolved() for settings in INITIAL_POINTS.values()]
    assert len({config.digest for config in configs}) == len(configs)
    assert (configs[0].diffusion.schedule, configs[0].diffusion.target) == ("linear", "epsilon")
    assert configs[0].diffusion.weighting == "target"
    assert (configs[1].diffusion.input_scale, configs[1].diffusion.activation) == (0.1, "tanh")
    assert configs[2].diffusion.target == "v"


@pytest.mark.parametrize("space", SHIPPED)
def test_optuna_knows_the_initial_points_that_a_space_can_propose_and_no_others(space):
    base = Config().with_leaves(STARTS["x0 with tanh"]).resolved()
    sampler = sampling.Sampler(Search(space=space), "search", base)
    known = {point.source: sampler.find_parameters(point) is not None for point in sampler.initial_proposals()}
    assert known["paper: ε, linear"] == (space == "everything")
    assert known["v, cosine b = 0.1"] == (space in ("target", "everything"))
    assert known["x0 with tanh, cosine b = 0.1"] == (space == "everything")


def test_settings_with_published_values_vary_or_stay_none():
    assert set(PUBLISHED) == {"location", "spread", "gamma"}  # for a new one, decide in the spaces whether it varies
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(drawn("everything", 50))
