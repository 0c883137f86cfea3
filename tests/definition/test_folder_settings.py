"""Settings that a data set's own files give, filled in where a study or a command learns the root."""

import json

import pytest
from nnunet_files import describe, write_volumes

from diffseg.errors import ConfigError, DataError, UserError
from studies.definition.changes import describe_differences
from studies.definition.folder_settings import fill_in, guess_layout
from studies.definition.reading import read_study
from studies.definition.study import stored_study
from studies.search.fingerprints import build_weighted

CLASSES = (("anterior", (1,)), ("posterior", (2,)))


@pytest.fixture
def root(tmp_path):
    describe(write_volumes(tmp_path / "root"), channel_names={"0": "T1", "1": "T2"})
    return str(tmp_path / "root")


def study_of(root, **settings):
    """Return the quickstart study of one data set of one's own."""
    leaves = {"network": "ensemdiff", **{f"data.{key}": value for key, value in settings.items()}}
    return read_study("quickstart", {"mine": root}, leaves, experiments=("e1", "e2"))


def own_trials(study):
    """Return the configurations of the trials of one's own data set."""
    return [trial.config for trial in study.trials if trial.config.data.name == "mine"]


def test_a_folder_of_nnunet_needs_no_settings(root):
    assert guess_layout(root) == "nnunet"
    for config in own_trials(study_of(root)):
        assert (config.data.layout, config.data.classes, config.data.channels) == ("nnunet", CLASSES, 2)
    assert build_weighted("mine", {"mine": root}, {"network": "ensemdiff"}).data.classes == CLASSES


@pytest.mark.parametrize("missing", ["dataset.json", "imagesTr"])
def test_other_folders_stay_folders(root, missing, tmp_path):
    (tmp_path / "root" / missing).rename(tmp_path / missing)
    assert guess_layout(root) == "folder"


def test_given_settings_are_kept(root):
    (config, *_) = own_trials(study_of(root, channels=3, foreground=[2]))
    assert (config.data.classes, config.data.foreground, config.data.channels) == ((), (2,), 3)
    (config, *_) = own_trials(study_of(root, classes={"both": [1, 2]}))
    assert (config.data.classes, config.data.channels) == ((("both", (1, 2)),), 2)
    (config, *_) = own_trials(study_of(root, layout="folder", foreground="nonzero"))
    assert (config.data.layout, config.data.classes, config.data.channels) == ("folder", (), 3)


def test_other_labels_make_other_trials(root, tmp_path):
    before = study_of(root)
    stored = stored_study("quickstart", json.loads(json.dumps(before.definition())))
    assert describe_differences(stored, study_of(root)) == []
    describe(
        tmp_path / "root", channel_names={"0": "T1", "1": "T2"}, labels={"background": 0, "whole": [1, 2], "core": 2}
    )
    after = study_of(root)
    assert not {trial.name for trial in own_trials_named(before)} & {trial.name for trial in own_trials_named(after)}
    assert "data.regions: False → False, True" in describe_differences(stored, after)


def own_trials_named(study):
    return [trial for trial in study.trials if trial.config.data.name == "mine"]


@pytest.mark.parametrize("place", ["s3://bucket/set", "/nowhere/on/this/machine"])
def test_a_root_that_cannot_be_read_needs_classes(place):
    with pytest.raises(
        UserError, match=r"data set mine is at .*whose dataset.json cannot be read from here: give its classes"
    ):
        study_of(place, layout="nnunet")
    (config, *_) = own_trials(study_of(place, layout="nnunet", classes={"a": 1}))
    assert config.data.classes == (("a", (1,)),)
    assert guess_layout(place) == "folder"


def test_a_broken_file_is_refused(root, tmp_path):
    describe(tmp_path / "root", labels={"background": 0, "a": "one"})
    with pytest.raises(DataError, match=r"dataset.json gives the label 'a'"):
        study_of(root)


@pytest.mark.parametrize(
    "leaves", [{}, {"data.layout": "folder"}, {"data.layout": "synthetic"}, {"data.layout": "isic16"}]
)
def test_other_layouts_are_left_alone(leaves, root):
    assert fill_in(leaves, root) == leaves
    assert fill_in({"data.layout": "nnunet"}, None) == {"data.layout": "nnunet"}


STUDY = """
experiments = ["e1"]
[all]
training.steps = 2
{all}
[network.ensemdiff]
[data.{name}]
{table}
"""


def described_study(tmp_path, name, root, table="", all_data_sets=""):
    """Return the configuration of a study file's one trial, of a data set with the table."""
    path = tmp_path / "study.toml"
    path.write_text(STUDY.format(all=all_data_sets, name=name, table=table))
    (trial,) = read_study(str(path), {name: root}, {}).trials
    return trial.config.data


@pytest.mark.parametrize("table", ["", "data.ignore = [4]", "data.scale = 1.0"])
def test_a_table_without_a_layout_reads_the_root_and_no_synthetic_images(root, table, tmp_path):
    assert described_study(tmp_path, "mine", root, table).layout == "nnunet"
    (tmp_path / "plain").mkdir()
    assert described_study(tmp_path, "mine", str(tmp_path / "plain"), table).layout == "folder"
    assert described_study(tmp_path, "isic16", str(tmp_path / "plain"), table).layout == "isic16"
    given = described_study(tmp_path, "mine", root, table, 'data.layout = "folder"')
    assert given.layout == "folder"


def test_a_root_of_synthetic_images_is_refused(root, tmp_path):
    with pytest.raises(ConfigError, match=r"data set mine has the root .* but data\.layout=synthetic draws its images"):
        described_study(tmp_path, "mine", root, 'data.layout = "synthetic"')
