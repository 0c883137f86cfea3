"""Presets: valid, complete, and overridden by settings beside them."""

import re

import pytest

from diffseg.config import NETWORKS, Config, presets
from diffseg.errors import ConfigError

ALL = [(network, name) for network in NETWORKS for name in presets.names(network)]
SHRUNK = re.compile(
    r"data\.size|network\.(width|multipliers|blocks|middle|attention|rrdb_\w+|encoder|epochs|iterations)"
    r"|training\.(steps|warmup|decay_steps|checkpoint_every)|inference\.steps"
)


@pytest.mark.parametrize(("network", "preset"), ALL)
def test_presets_are_valid_and_debug_twins_differ_in_size_alone(network, preset):
    experiment = "e2" if "e2" in NETWORKS[network].experiments else "e1"
    config = Config().with_leaves({"network": network, "preset": preset, "experiment": experiment})
    config.resolved()
    assert config.leaves().items() >= presets.settings(network, preset).items()
    kind, _, name = preset.partition("/")
    if kind == "debug":
        big = Config().with_leaves({"network": network, "preset": f"published/{name}", "experiment": experiment})
        changed = {key for key, value in config.leaves().items() if big.leaves()[key] != value}
        assert changed
        assert all(SHRUNK.fullmatch(key) for key in changed)


def test_every_network_has_presets_and_every_preset_a_debug_twin():
    assert {network for network, _ in ALL} == set(NETWORKS)
    for network in NETWORKS:
        kinds = [name.partition("/")[::2] for name in presets.names(network)]
        assert {name for kind, name in kinds if kind == "published"} == {
            name for kind, name in kinds if kind == "debug"
        }


def test_settings_beside_a_preset_win_over_it():
    leaves = {"training.batch": 3, "preset": "published/monuseg", "network": "segdiff"}
    config = Config().with_leaves(leaves)
    assert (config.training.batch, config.diffusion.steps, config.network.rrdb_blocks) == (3, 100, 12)


@pytest.mark.parametrize(
    ("leaves", "words"),
    [
        (
            {"network": "segdiff", "preset": "published/brats"},
            r"segdiff has no preset 'published/brats': .*published/monuseg",
        ),
        ({"network": "unet", "preset": "published/brats"}, r"got 'unet'; allowed are ensemdiff"),
        ({"network": "unet"}, r"network.name: got \"unet\"; allowed are ensemdiff"),
        ({"network": "segdiff", "network.version": "v1"}, r"unknown configuration key 'network.version'"),
        ({"network": "ensemdiff", "network.rrdb_blocks": 3}, r"unknown configuration key 'network.rrdb_blocks'"),
        ({"network": "ambdiff", "network.blocks": [1]}, r"blocks has 1 entries, but multipliers has 4"),
    ],
)
def test_settings_of_another_network_are_refused(leaves, words):
    with pytest.raises(ConfigError, match=words):
        Config().with_leaves(leaves)
