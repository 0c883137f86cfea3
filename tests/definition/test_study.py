import json
import re

import pytest

from diffseg.config import parse_leaf
from diffseg.errors import ConfigError, UserError
from studies.definition.changes import check_against_stored, describe_differences
from studies.definition.reading import read_study
from studies.definition.shipped import data_settings, shipped_studies
from studies.definition.study import stored_study
from studies.definition.trial import trial_name


@pytest.fixture
def file(tmp_path):
    def write(text):
        (tmp_path / "mine.toml").write_text(text)
        return str(tmp_path / "mine.toml")

    return write


def test_quickstart_is_three_kinds_and_four_experiments():
    study = read_study("quickstart", {}, {})
    assert len(study.trials) == 12
    assert {(t.config.data.kind, t.config.experiment) for t in study.trials} == {
        (kind, experiment) for kind in ("large", "many", "clusters") for experiment in ("e1", "e2", "e3", "e4")
    }


CLASSES = """
seeds = [0]
experiments = ["e1", "e2"]
[all]
data.classes = { one = 1, two = 2 }
[data.cells]
data.layout = "synthetic"
data.kind = "classes"
[data.cells.data.classes]
two = [2, "#FF0000"]
one = 1
background = 7
[variant.both]
[variant.merged]
data.classes.cell = [1, 2]
"""
TWO = (("two", (2, "#ff0000")), ("one", (1,)), ("background", (7,)))


def test_classes_are_a_table_that_replaces_another_one(file):
    study = read_study(file(CLASSES), {}, {})
    found = {study.variants[trial.name]: trial.config.data.classes for trial in study.trials}
    assert found == {"both": TWO, "merged": (("cell", (1, 2)),)}
    settings = dict([parse_leaf('data.classes={"a": [1, 2]}')])
    assert {trial.config.data.classes for trial in read_study(file(CLASSES), {}, settings).trials} == {(("a", (1, 2)),)}
    stored = stored_study("mine", json.loads(json.dumps(study.definition())))
    assert [trial.config for trial in stored.trials] == [trial.config for trial in study.trials]
    lines = describe_differences(study, read_study(file(CLASSES), {}, settings))
    assert (
        "data.classes: {'cell': [1, 2]}, {'two': [2, '#ff0000'], 'one': [1], 'background': [7]} → {'a': [1, 2]}"
        in lines
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data.classes = { one = 1, two = 1 }", r"the value 1 is both of one and of two: give it to one of them"),
        ("data.classes = { one = 1.5 }", r"data\.classes: allowed are values of masks, such as 2, .* not 1\.5"),
        ("data.classes = { all = 1 }", r'data\.classes: "all" is no name of a class'),
        ("data.classes = { one = [] }", r"data\.classes: class one has no value"),
        ("data.classes = [1]", r"data\.classes: got \[1\]; allowed is a table of names and values"),
        ("data.classes = {one = 1}\ndata.foreground = [1]", r"classes and foreground both say what masks hold"),
        ("data.classes.one.deep = 1", r"data\.classes: allowed are values of masks"),
        ('data.kind = "classes"', r"name them, such as data\.classes="),
    ],
)
def test_wrong_classes_are_refused_in_one_sentence(text, words, file):
    with pytest.raises(ConfigError, match=words) as raised:
        read_study(file(f'[data.mine]\ndata.layout = "synthetic"\n{text}'), {}, {})
    assert "\n" not in str(raised.value)


def test_paper_is_the_grid_of_the_data_sets_that_have_a_root():
    roots = {"isic16": "/a", "monuseg": "/b", "her2": "/c"}
    study = read_study("paper", roots, {})
    assert len(study.trials) == 3 * (5 + 3 + 3 + 3)
    assert {t.config.network.name for t in study.trials if t.config.experiment == "e1"} == {
        *("ensemdiff", "segdiff", "medsegdiff", "segformer", "nnunet")
    }
    assert {t.config.data.name: t.config.inference.ensemble for t in study.trials if t.config.experiment == "e2"} == {
        "isic16": 10,
        "monuseg": 25,
        "her2": 5,
    }
    trained = [t.config for t in study.trials if t.config.experiment == "e1" and t.config.network.name != "nnunet"]
    assert {(c.training.learning_rate, c.training.validation) for c in trained} == {(1e-5, 0.2)}
    assert {c.diffusion.steps for t in study.trials for c in [t.config]} == {1000}
    one = read_study("paper", {"isic16": "/a"}, {}, experiments=("e1", "e2"))
    assert [t.config.experiment for t in one.trials] == ["e1", "e2"] * 3 + ["e1"] * 2
    assert one.left_out == ("monuseg", "her2", "lidc", "brats2020")
    own = read_study("paper", {"mine": "/d"}, {})
    assert {(t.config.data.name, t.config.data.layout) for t in own.trials} == {("mine", "folder")}
    with pytest.raises(UserError, match=r"--data isic16=ROOT --data monuseg=ROOT"):
        read_study("paper", {}, {})


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_studies_resolve_to_distinct_trials(name):
    study = read_study(name, {"isic16": "/a", "monuseg": "/b", "her2": "/c", "tumour_clusters": "/d"}, {})
    every = (*study.trials, *study.starts)
    assert len({t.name for t in every}) == len({t.config.digest for t in every}) == len(every) > 0
    assert all(t.config == t.config.resolved() for t in every)


def test_later_tables_override_earlier_ones_and_the_command_line_all_of_them(file):
    path = file("""
        seeds = [1, 2]
        experiments = ["e2", "e3"]
        [all]
        training.steps = 1
        training.batch = 1
        inference.ensemble = 1
        [data.synthetic-a]
        data.layout = "synthetic"
        training.steps = 2
        training.batch = 2
        [experiment.e2]
        training.steps = 3
        [variant.x]
        diffusion.target = "x0"
        [variant.e]
        diffusion.target = "epsilon"
    """)
    study = read_study(path, {}, {"training.learning_rate": 0.5})
    e2 = [t.config for t in study.trials if t.config.experiment == "e2"]
    e3 = [t.config for t in study.trials if t.config.experiment == "e3"]
    assert [(c.training.steps, c.training.batch, c.training.learning_rate, c.inference.ensemble) for c in e2] == [
        (3, 2, 0.5, 1)
    ] * 4
    assert {(c.diffusion.target, c.seed) for c in e2} == {("x0", 1), ("x0", 2), ("epsilon", 1), ("epsilon", 2)}
    assert [c.training.steps for c in e3] == [2, 2]  # the variants do not concern E3
    assert study.name == "mine"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[all", "not TOML"),
        ("[other]\na = 1", "unknown tables other"),
        ('[all]\ntraining.step = 1\n[data.a]\ndata.layout = "synthetic"', "training.steps"),
        ('experiments = ["e9"]\n[data.a]\ndata.layout = "synthetic"', "e9"),
    ],
)
def test_bad_study_files_are_one_sentence(file, text, words):
    with pytest.raises(UserError, match=words) as error:
        read_study(file(text), {}, {})
    assert "\n" not in str(error.value) or "TOML" in str(error.value)


def test_an_unknown_study_names_the_known_ones():
    with pytest.raises(UserError, match=r"no study 'quikstart'.*quickstart"):
        read_study("quikstart", {}, {})


def test_another_definition_is_refused_with_its_difference_or_extends():
    old = read_study("quickstart", {}, {})
    new = read_study("quickstart", {}, {"training.steps": 7}, experiments=("e1",))
    assert check_against_stored(new, None, extend=False) is new
    assert check_against_stored(old, old.definition(), extend=False).trials == old.trials
    with pytest.raises(UserError, match=r"training.steps: 100, 180 → 7.*--extend.*--name"):
        check_against_stored(new, old.definition(), extend=False)
    both = check_against_stored(new, old.definition(), extend=True)
    assert len(both.trials) == 12 + 3
    assert {t.name for t in both.trials} == {t.name for t in (*old.trials, *new.trials)}


def test_a_searchs_budget_may_change_but_its_space_may_not(file):
    old = read_study("search", {"mine": "/a"}, {}, search={"budget": 8, "confirm": "1x2"})
    assert (old.search.budget, old.search.confirmation, old.requested_trials) == (8, (1, 2), 8 + 2 * 2)
    assert stored_study("search", old.definition()).search == old.search
    larger = read_study("search", {"mine": "/a"}, {}, search={"budget": 80, "concurrency": 1})
    assert check_against_stored(larger, old.definition(), extend=False).search.budget == 80
    for extend in (False, True):
        with pytest.raises(UserError, match=r"another search \(search.space: weighting → target\).*--name NAME"):
            check_against_stored(
                read_study("search", {"mine": "/a"}, {}, search={"space": "target"}), old.definition(), extend
            )
    two = check_against_stored(read_study("search", {"b": "/b"}, {}), old.definition(), extend=True)
    assert [trial.config.data.name for trial in two.starts] == ["mine", "b"]
    with pytest.raises(UserError, match=r"search.space: weighting → schedule"):
        check_against_stored(read_study("quickstart", {}, {}, name="search"), old.definition(), extend=True)


def test_a_search_stands_beside_the_trials_of_a_study():
    study = read_study("quickstart", {}, {})
    (start,) = study.starts
    assert (start.config.experiment, start.config.data.name) == ("e2", "synthetic-clusters")
    assert start.config.data.held_out == 0.2
    assert not any(trial.config.data.held_out for trial in study.trials)
    assert study.requested_trials == 12 + 6
    assert [trial.name for trial in stored_study("quickstart", study.definition()).starts] == [start.name]
    e3 = read_study("quickstart", {}, {}, experiments=("e3",))
    assert (len(e3.trials), e3.starts, e3.search) == (3, (), None)
    assert check_against_stored(study, e3.definition(), extend=True).starts == (start,)
    assert check_against_stored(e3, study.definition(), extend=True).search == study.search
    with pytest.raises(UserError, match="nothing is left of study search"):
        read_study("search", {"mine": "/a"}, {}, experiments=("e1",))


def test_a_search_of_an_unknown_data_set_is_refused(file):
    text = """
        [data.synthetic-a]
        data.layout = "synthetic"
        [search]
        space = "target"
        data = ["synthetic-b"]
    """
    with pytest.raises(UserError, match=r"search.data of mine.toml names synthetic-b: allowed are synthetic-a"):
        read_study(file(text), {}, {})


def test_the_baseline_is_a_variant(file):
    text = """
        experiments = ["e2"]
        seeds = [0, 1]
        baseline = "BASE"
        [data.synthetic-a]
        data.layout = "synthetic"
        [variant.x]
        diffusion.target = "x0"
        [variant.e]
    """
    study = read_study(file(text.replace("BASE", "x")), {}, {})
    base = [trial.config.diffusion.target for trial in study.trials if study.variants[trial.name] == study.baseline]
    assert base == ["x0", "x0"]
    assert stored_study("mine", study.definition()).variants == study.variants
    with pytest.raises(UserError, match=r"no variant 'y' for its baseline: allowed are x, e"):
        read_study(file(text.replace("BASE", "y")), {}, {})


def test_a_trials_name_follows_from_its_configuration(tiny):
    assert trial_name(tiny()) == trial_name(tiny())
    assert trial_name(tiny()) != trial_name(tiny(training__steps=9))


def test_data_sets_of_the_paper_have_their_settings():
    assert data_settings("monuseg")["data.layout"] == "monuseg"
    assert data_settings("anything") == {"data.layout": "folder"}


def test_preset_debug_uses_the_small_versions_of_a_studys_presets():
    settings = {"preset": "debug", "data.size": 32, "inference.steps": 2, "network.weights": "none", "network.heads": 2}
    small = read_study("paper", {"isic16": "/a"}, settings)
    assert {t.config.network.weights for t in small.trials if t.config.network.name == "segformer"} == {"none"}
    assert {t.config.network.heads for t in small.trials if hasattr(t.config.network, "heads")} == {2}
    with pytest.raises(ConfigError, match=r"unknown configuration key 'network.middle'"):
        read_study("paper", {"isic16": "/a"}, {"network.middle": 3})  # of no network in this study
    widths = {t.config.network.name: getattr(t.config.network, "width", None) for t in small.trials}
    assert widths == {"ensemdiff": 32, "segdiff": 32, "medsegdiff": 32, "segformer": None, "nnunet": None}
    assert {t.config.data.size for t in small.trials} == {32}
    assert {t.config.data.fit for t in small.trials} == {"resize"}
    assert {t.config.network.epochs for t in small.trials if t.config.network.name == "nnunet"} == {16}


def test_the_members_of_a_deep_ensemble_are_added(file):
    path = file("""
        seeds = [1, 2]
        experiments = ["e1"]
        [data.synthetic-a]
        data.layout = "synthetic"
        [variant.single]
        [variant.together]
        inference.seeds = [1, 2, 3]
    """)
    study = read_study(path, {}, {})
    assert [t.name.split("-s")[-1].split("-")[0] for t in study.trials] == ["1", "2", "3", "1+2+3"]


def test_another_network_than_the_studys_starts_from_its_own_settings():
    study = read_study("quickstart", {}, {"network": "segdiff", "preset": "debug/monuseg"})
    assert {(t.config.network.name, t.config.network.rrdb_width) for t in study.trials} == {("segdiff", 16)}
    assert {t.config.network.name for t in read_study("quickstart", {}, {"network": "nnunet"}).trials} == {"nnunet"}


def test_differences_between_studies_of_several_networks_are_named():
    old = read_study("paper", {"isic16": "/a"}, {})
    new = read_study("paper", {"isic16": "/a"}, {"network": "segdiff", "preset": "debug/monuseg"})
    assert {"network.encoder: 'mit_b3' → none", "network.width: 128 → 32"} <= set(describe_differences(old, new))
    with pytest.raises(
        UserError, match=r"data.size: 256 → 64.*; \d+ settings more; 14 trials no longer asked for, 4 new"
    ):
        check_against_stored(new, old.definition(), extend=False)


@pytest.mark.parametrize("setting", ["traning.steps=20", "training.steps=many", "network=unet", "diffusion.target=eps"])
def test_a_wrong_setting_on_the_command_line_is_located_there(setting, tmp_path):
    key, value = setting.split("=")
    with pytest.raises(ConfigError, match=rf"{re.escape(key)}.*\(the command line, e1 of synthetic-large\)"):
        read_study("quickstart", {}, {key: value})
