"""Configurations: identity, settings by their paths, errors, and what resolution makes equal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffseg.config import NETWORKS, Config, load, parse_leaf
from diffseg.errors import ConfigError


def test_the_digest_survives_a_round_trip_and_changes_with_any_setting():
    config = Config()
    assert load(config.canonical()) == config
    assert load(config.canonical()).digest == config.digest
    changed = {
        "seed": 1,
        "training.steps": 7,
        "network.attention": [8],
        "data.name": "other",
        "inference.merge": "vote",
    }
    digests = {config.with_leaves({key: value}).digest for key, value in changed.items()}
    assert len(digests | {config.digest}) == len(changed) + 1


@given(st.floats(1e-6, 1.0), st.integers(1, 10_000))
def test_settings_read_back_as_they_were_set(rate, steps):
    leaves = {"training.learning_rate": rate, "training.steps": steps}
    assert leaves.items() <= Config().with_leaves(leaves).leaves().items()


@pytest.mark.parametrize(
    ("leaves", "words"),
    [
        ({"training.step": 7}, ["training.step'", "training.steps"]),
        ({"nothing.like.it": 7}, ["nothing.like.it", "allowed"]),
        ({"training": 7}, ["training'"]),
        ({"training.steps": "many"}, ["training.steps", '"many"', "integer"]),
        ({"training.steps": 1.5}, ["training.steps", "1.5"]),
        ({"training.steps": True}, ["training.steps", "true"]),
        ({"training.steps": 0}, ["training.steps", "0", "greater"]),
        ({"diffusion.target": "u"}, ["diffusion.target", '"u"', "epsilon", "x0", "v"]),
        ({"network.width": 33}, ["33", "multiple of 32"]),
        ({"diffusion.steps": 10}, ["10", "25"]),
        ({"data.name": "../up"}, ["data.name"]),
        ({"training.snapshots": [2.0]}, ["training.snapshots"]),
        (
            {"diffusion.fingerprint_networks": ["ambdiff"]},
            ["fingerprint_networks", '"ambdiff"', "ensemdiff, segdiff, medsegdiff"],
        ),
        ({"network": "segformer", "experiment": "e2"}, ["network segformer has no e2", "only e1"]),
    ],
)
def test_a_bad_setting_is_refused_in_one_sentence_that_names_it(leaves, words):
    with pytest.raises(ConfigError) as error:
        Config().with_leaves(leaves)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_unknown_setting_of_a_stored_network_is_named_with_those_it_has(name):
    """Also of networks without the default experiment, e2."""
    stored = Config(experiment="e1", network=NETWORKS[name]()).model_dump(mode="json")
    stored["network"]["widht"] = 32
    with pytest.raises(
        ConfigError, match=r"unknown configuration key 'network\.widht': (did you mean network\.|allowed are)"
    ):
        load(stored)


def test_a_setting_on_the_command_line_is_json_or_text():
    assert parse_leaf("training.steps=100") == ("training.steps", 100)
    assert parse_leaf("network.multipliers=[1, 2]") == ("network.multipliers", [1, 2])
    assert parse_leaf("diffusion.target=x0") == ("diffusion.target", "x0")
    assert parse_leaf("training.clip=null") == ("training.clip", None)
    with pytest.raises(ConfigError, match="key=value"):
        parse_leaf("training.steps")


def test_a_setting_that_the_experiment_does_not_use_makes_no_other_trial():
    def digests(experiment, **leaves):
        base = Config().with_leaves({"experiment": experiment})
        return (
            base.resolved().digest
            == base.with_leaves({k.replace("__", "."): v for k, v in leaves.items()}).resolved().digest
        )

    assert digests("e1", diffusion__target="x0", inference__sampler="ddim", inference__steps=3)
    assert not digests("e1", inference__ensemble=9)
    assert not digests("e2", diffusion__target="x0")
    assert not digests("e2", inference__sampler="ddim")
    assert digests("e2", diffusion__activation="tanh")  # bounds an x0 output, and the target is ε
    assert digests("e3", diffusion__target="epsilon", inference__ensemble=9)
    assert not digests("e3", diffusion__activation="tanh")
    assert digests("e4", diffusion__target="x0", diffusion__activation="tanh", inference__steps=3)


def test_resolving_twice_changes_nothing(tiny):
    for experiment in ("e1", "e2", "e3", "e4"):
        config = tiny(experiment=experiment)
        assert config.resolved() == config


def test_e3_and_e4_have_the_targets_of_the_paper():
    assert Config().with_leaves({"experiment": "e3"}).resolved().diffusion.target == "x0"
    assert Config().with_leaves({"experiment": "e4", "diffusion.target": "x0"}).resolved().diffusion.target == "epsilon"


@pytest.mark.parametrize(("settings", "steps"), [
    ({}, 1000),
    ({"diffusion.target": "v", "diffusion.steps": 100}, 100),
    ({"diffusion.target": "x0"}, 10),
    ({"diffusion.target": "x0", "inference.steps": 7}, 7),
    ({"inference.steps": 7}, 7),
])  # fmt: skip
def test_the_default_number_of_sampling_steps_depends_on_the_target(settings, steps):
    assert Config().with_leaves(settings).resolved().inference.steps == steps


def test_the_error_for_a_foreground_has_balanced_brackets():
    with pytest.raises(ConfigError) as raised:
        Config().with_leaves({"data.foreground": "red"})
    assert str(raised.value).count("(") == str(raised.value).count(")")
