"""Lists of settings, networks and presets: complete, described, and right about what uses a setting."""

import contextlib
import subprocess
import sys

import pytest

from diffseg.config import NETWORKS, Config, presets
from diffseg.config.describe import settings
from diffseg.errors import ConfigError
from diffseg.networks import registry
from diffseg.networks.protocol import EXPERIMENTS

ROWS = {row.path: row for row in settings()}
PROFILE = [[-9.0, 0.0], [0.0, 1.0]]
CLASSES = {"data.classes": {"one": 1, "two": 2}}
BESIDE = {  # what must hold, besides the choices that a row names, for a setting to matter
    "data.regions": CLASSES,
    "diffusion.fingerprint_class": CLASSES,
    "data.test_crops": {"data.fit": "crop"},
    "data.held_out_least": {"data.held_out": 0.2},
    "data.fold": {"data.held_out": 0.2},
    "inference.ema_length": {"training.ema_copies": 4},
    "inference.evaluation_images": {"training.evaluations": [1.0]},
    "inference.dropout": {"network.dropout": 0.1},
    "inference.risk.metric": {"data.calibration": 0.2},
    "inference.risk.level": {"data.calibration": 0.2, "inference.risk.metric": "fnr"},
}
CANDIDATES = [
    True,
    0.25,
    2.0,
    3,
    100,
    "other",
    "one",
    {"one": 1},
    [7],
    [0.5],
    [1, 2],
    [0.5, 2.0],
    ["segdiff"],
    [[-8.0, 1.0], [1.0, 2.0]],
]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_setting_of_every_network_is_listed_and_described(name):
    leaves = Config(experiment="e1", network=NETWORKS[name]()).leaves()
    rows = [row for row in settings() if name in row.networks or not row.path.startswith("network.")]
    assert {row.path for row in rows} == set(leaves)
    for row in rows:
        assert row.description.endswith("."), row.path
        assert row.type, row.path


def test_a_setting_of_several_networks_has_a_row_for_each_default():
    rows = [(row.default, row.networks) for row in settings("network.width")]
    assert rows == [(128, ("ensemdiff", "segdiff", "medsegdiff")), (32, ("ambdiff",))]


@pytest.mark.parametrize(
    ("path", "kind", "choices", "limits"),
    [
        ("training.ema", "number", (), "≥ 0, < 1"),
        ("training.decay_steps", "integer or None", (), "> 0"),
        ("diffusion.target", "text", ("epsilon", "x0", "v", "flow", "edm", "x0-epsilon"), ""),
        ("diffusion.profile", "list of lists of numbers", (), ""),
        ("diffusion.fingerprint_networks", "list of texts", ("ensemdiff", "segdiff", "medsegdiff"), ""),
        ("inference.seeds", "list of integers", (), "≥ 0, < 2147483648"),
        ("network.name", "text", tuple(NETWORKS), ""),
        ("data.classes", "table", (), ""),
    ],
)
def test_types_choices_and_limits(path, kind, choices, limits):
    row = ROWS[path]
    assert (row.type, row.choices, row.range) == (kind, choices, limits)


@pytest.mark.parametrize(
    ("path", "users"),
    [
        ("data.size", ""),
        ("training.steps", "ensemdiff, segdiff, medsegdiff, ambdiff, segformer"),
        ("inference.seeds", "e1"),
        ("inference.eta", "e2; ensemdiff, segdiff, medsegdiff, ambdiff; with inference.sampler=ddim"),
        ("diffusion.boundary_width", "e2; ensemdiff, segdiff, medsegdiff, ambdiff; with diffusion.loss=boundary"),
        ("network.epochs", "e1; nnunet"),
        ("network.name", ""),
    ],
)
def test_what_uses_a_setting(path, users):
    assert ROWS[path].used_by == users


@pytest.mark.parametrize("path", [path for path in ROWS if not path.startswith(("network.", "experiment"))])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_setting_changes_the_trials_of_the_experiments_that_use_it_and_no_others(path, experiment):
    row = ROWS[path]
    leaves = {"experiment": experiment, "diffusion.profile": PROFILE, "inference.curve": PROFILE} | BESIDE.get(path, {})
    base = Config().with_leaves(leaves | {choice: values[0] for choice, values in row.needs.items()})
    changed = next(one for value in [*row.choices, *CANDIDATES] if (one := changed_to(base, path, value)))
    assert (changed.resolved().digest != base.resolved().digest) == (experiment in row.experiments)


def changed_to(config, path, value):
    """The configuration with another value; None if it is not allowed, or the one that it has."""
    with contextlib.suppress(ConfigError):
        found = config.with_leaves({path: value})
        return found if found != config else None


def test_networks_and_presets_are_listed():
    (entry,) = (entry for entry in registry.describe() if entry.name == "segdiff")
    assert (entry.citation, entry.experiments) == ("Amit et al., 2021", EXPERIMENTS)
    assert entry.presets[:1] == ("published/monuseg",)
    assert [preset.name for preset in presets.describe("nnunet")] == ["published/2d", "debug/2d"]
    assert {preset.network for preset in presets.describe()} == set(NETWORKS)
    with pytest.raises(ConfigError, match="got network 'unet'; allowed are ensemdiff, segdiff"):
        presets.describe("unet")


def test_listing_settings_and_presets_imports_no_torch():
    code = (
        "import sys; from diffseg.config import describe, presets; from diffseg.networks import registry;"
        "describe.settings(); presets.describe(); registry.describe(); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
