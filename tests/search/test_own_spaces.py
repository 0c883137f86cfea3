"""Spaces of a study file over any setting: what they draw, and the sentence for each that cannot be."""

import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from diffseg.config import Config
from diffseg.errors import ConfigError
from search_spaces import draw_settings, parse_space
from search_spaces.function import load_unchanged
from studies.commands.program import main
from studies.definition.reading import read_study
from studies.search import sampling
from studies.search.search import Search, parse
from studies.store.ledger import Ledger

HEAD = """\
experiments = []
[all]
training.steps = 10
data.size = 16
[network.ensemdiff]
network.width = 32
network.multipliers = [1, 1]
network.blocks = 1
network.attention = []
[data.synthetic-large]
data.layout = "synthetic"
[search]
budget = 9
pruning = 0
{search}
[search.start]
data.held_out = 0.2
"""
SPACE = """
[search.space]
training.learning_rate = { low = 1e-5, high = 1e-2, log = true }
network.width = { low = 32, high = 128, step = 32 }
network.multipliers = { choices = [[1, 1], [1, 2]] }
diffusion.schedule = { choices = ["linear", "cosine", "sigmoid"] }
diffusion.temperature = { low = 0.3, high = 1.5, when = { diffusion.schedule = "sigmoid" } }
training.batch = 4
inference.overlap = { low = 0, high = 0.5 }
"""

POINTS = """
[[search.points]]
training.learning_rate = 1e-3
network.multipliers = [1, 2]
[[search.points]]
inference.overlap = 0.6
training.batch = 4
"""


@pytest.fixture
def written(tmp_path):
    """A function that writes a study whose table [search] has these lines, and returns its path."""

    def write(search):
        path = tmp_path / "mine.toml"
        path.write_text(HEAD.format(search=search), encoding="utf-8")
        return str(path)

    return write


def draw(space, count=200, start=None):
    start = (start or Config()).leaves()
    return [draw_settings(lambda trial: space.suggest(trial, start), seed) for seed in range(count)]


def call(*arguments):
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.output


# ---- what a space draws


def test_a_space_draws_ranges_choices_conditions_and_fixed_values(written):
    study = read_study(written(SPACE), {}, {})
    found = draw(study.search.space)
    values = {path: {repr(one[path]) for one in found if path in one} for one in found for path in one}
    assert values["network.width"] == {"32", "64", "96", "128"}
    assert values["network.multipliers"] == {"[1, 1]", "[1, 2]"}
    assert values["training.batch"] == {"4"}
    assert all(("diffusion.temperature" in one) == (one["diffusion.schedule"] == "sigmoid") for one in found)
    rates = sorted(one["training.learning_rate"] for one in found)
    assert rates[0] >= 1e-5
    assert rates[-1] <= 1e-2
    assert 1e-4 < rates[len(rates) // 2] < 1e-3  # uniform in the logarithm
    assert all(isinstance(one["inference.overlap"], float) for one in found)
    (start,) = study.starts
    for one in found:
        start.config.with_leaves(one).resolved()


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "grid"])
def test_the_start_is_proposed_first_and_then_points_of_ones_own(sampler, written):
    study = read_study(written(SPACE + POINTS), {}, {}, search={"sampler": sampler})
    (start,) = study.starts
    own = sampling.Sampler(study.search, start.name, start.config)
    first = own.initial_proposals()
    assert [one.source for one in first] == ["start", "point 1", "point 2"]
    assert first[0].settings == {"training.batch": 4}  # what is fixed holds for the start, too
    assert first[0].config == start.config.with_leaves({"training.batch": 4}).resolved()
    assert first[1].config.network.multipliers == (1, 2)
    assert first[2].config.inference.overlap == 0.6
    assert first[0].label == "start"
    if sampler != "grid":
        known = [own.find_parameters(one) for one in first]
        assert known[1].values["network.multipliers"] == "[1, 2]"
        assert known[2] is None  # the space has less overlap


def test_conditions_are_on_other_settings_in_any_order():
    space = parse_space(
        {
            "diffusion.mixing": {
                "low": 0.0,
                "high": 0.5,
                "when": [
                    {"diffusion.weighting": "fingerprint"},
                    {"diffusion": {"density": ["adaptive", "fingerprint"]}},
                ],
            },
            "diffusion.density": {
                "choices": ["uniform", "adaptive"],
                "when": {"diffusion.weighting": {"not": ["learned"]}, "training.optimiser": "adamw"},
            },
            "diffusion.weighting": {"choices": ["learned", "uniform", "fingerprint"]},
        }
    )
    assert [entry.path for entry in space.entries] == ["diffusion.weighting", "diffusion.density", "diffusion.mixing"]
    for one in draw(space):
        assert ("diffusion.density" in one) == (one["diffusion.weighting"] != "learned")
        mixed = one["diffusion.weighting"] == "fingerprint" or one.get("diffusion.density") == "adaptive"
        assert ("diffusion.mixing" in one) == mixed
    adam = Config().with_leaves({"training.optimiser": "adam"})
    assert not any("diffusion.density" in one for one in draw(space, start=adam))  # the start's own setting counts


def test_a_space_is_stored_with_the_study_as_it_is_written(written):
    study = read_study(written(SPACE), {}, {})
    stored = json.loads(json.dumps(study.search.model_dump(mode="json")))
    again = parse(stored)
    assert again == study.search
    assert study.search.differences(again) == []
    other = read_study(written(SPACE.replace("1e-2", "1e-1").replace("training.batch = 4", "")), {}, {}).search
    assert study.search.differences(other) == [
        "search.space.training.learning_rate: 1e-05 to 0.01, log → 1e-05 to 0.1, log",
        "search.space.training.batch: 4 → none",
    ]
    assert other.differences(Search(space="target"))[0] == "search.space: a table → target"


def test_a_network_may_vary_with_its_own_settings():
    space = parse_space(
        {
            "network.name": {"choices": ["ensemdiff", "segdiff"]},
            "network.rrdb_blocks": {"choices": [1, 2], "when": {"network.name": "segdiff"}},
        }
    )
    space.check(Config())
    for one in draw(space, 20):
        Config().with_leaves(one).resolved()


# ---- Python functions

FUNCTION = """
import math
def width(trial):
    if trial.suggest_categorical("network.multipliers", [[1, 1], [1, 2]]) == [1, 2]:
        trial.suggest_int("network.width", 32, 64, step=32)
    trial.suggest_float("training.learning_rate", 10 ** -5, math.exp(-4), log=True)
def loop(trial):
    raise KeyError("which")
def other(trial):
    trial.suggest_categorical("training.optimizer", ["adam"])
def low(trial):
    trial.suggest_float("diffusion.temperature", 0.001, 0.05)
def sets(trial):
    trial.suggest_categorical("training.batch", [{1, 2}, {3}])
"""


def test_a_python_function_is_a_space(written, tmp_path):
    (tmp_path / "space.py").write_text(FUNCTION, encoding="utf-8")
    path, before = written('space = "space.py:width"'), list(sys.path)
    study = read_study(path, {}, {})
    assert sys.path == before
    assert "space" not in sys.modules
    found = draw(study.search.space)
    assert {repr(one["network.multipliers"]) for one in found} == {"[1, 1]", "[1, 2]"}
    assert all(("network.width" in one) == (one["network.multipliers"] == [1, 2]) for one in found)
    (start,) = study.starts
    own = sampling.Sampler(study.search, start.name, start.config)
    (first,) = own.initial_proposals()
    assert first.config == start.config
    assert own.find_parameters(own.draw_randomly(1)[0]) is not None
    stored = parse(json.loads(json.dumps(study.search.model_dump(mode="json"))))
    assert study.search.differences(stored) == []

    (tmp_path / "space.py").write_text(FUNCTION.replace("64", "128"), encoding="utf-8")
    changed = read_study(path, {}, {}).search
    assert study.search.differences(changed) == ["search.space: the file of space.py:width has changed"]
    assert read_study(path, {}, {}, search={"space": "target"}).search.space.name == "target"


def test_a_changed_python_space_is_another_search_and_does_not_resume(written, tmp_path):
    file = tmp_path / "space.py"
    file.write_text(FUNCTION, encoding="utf-8")
    path, store = written('space = "space.py:width"'), str(tmp_path / "store")
    study = read_study(path, {}, {})
    ledger = Ledger(store, "mine")
    ledger.define(study.definition())
    file.write_text(FUNCTION + "# changed", encoding="utf-8")
    load_unchanged.cache_clear()
    code, output = call("plan", path, "--store", store)
    assert code == 2, output
    assert "exists with another search (search.space: the file of space.py:width has changed): give this" in output
    code, output = call("run", "mine", "--store", store)  # from the definition alone
    assert code == 2, output
    assert re.search(r"search.space: .*space.py has changed since the search began; restore it, or", output)
    file.unlink()
    load_unchanged.cache_clear()
    code, output = call("run", "mine", "--store", store)
    assert code == 2, output
    assert re.search(r"search.space: there is no file .*space.py; give FILE.py:FUNCTION", output)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("spacy.py:width", r"there is no file .*spacy.py \(did you mean .*space.py\?\)"),
        ("space.py:with", r"has no function 'with' \(did you mean width\?\); it has width, loop"),
        ("space.py:loop", r"space.py:loop raises KeyError: 'which'"),
        ("space.py:other", r"there is no setting training.optimizer; did you mean training.optimiser"),
        ("space.py:low", r"suggests what is refused \(diffusion.temperature: got 0.0"),
        ("space.py:sets", r"raises TypeError: .*set is not JSON serializable"),
        ("broken.py:f", r"broken.py cannot be run \(SyntaxError: .*"),
        ("ends.py:f", r"ends.py cannot be run \(SystemExit: 3\)"),
    ],
)
def test_a_python_space_that_cannot_be_used_is_refused_in_one_sentence(reference, words, written, tmp_path):
    (tmp_path / "space.py").write_text(FUNCTION, encoding="utf-8")
    (tmp_path / "broken.py").write_text("def f(:", encoding="utf-8")
    (tmp_path / "ends.py").write_text("raise SystemExit(3)", encoding="utf-8")
    check_refused(written(f'space = "{reference}"'), tmp_path, r"mine.toml, line 15: search.space: .*" + words)


# ---- bad input


def check_refused(path, tmp_path, words):
    for command in ("plan", "run"):
        code, output = call(command, path, "--store", str(tmp_path / "store"))
        assert code == 2, output
        assert len(output.strip().splitlines()) == 1, output
        assert re.search(words, output), output
    assert not (tmp_path / "store").exists()


BAD = {
    "no such setting": (
        "training.learning_rat = { low = 1, high = 2 }",
        r"no setting training.learning_rat; did you mean training.learning_rate",
    ),
    "no such section": (
        "trainning.learning_rate = { low = 1, high = 2 }",
        r"no setting trainning.learning_rate; did you mean training.learning_rate",
    ),
    "a section": ("training = 3", r"search.space.training: there is no setting training"),
    "another network's": (
        "network.rrdb_blocks = { low = 1, high = 2 }",
        r"network.rrdb_blocks is a setting of segdiff, but the search starts from ensemdiff",
    ),
    "a network's without E2": (
        "network.epochs = { low = 1, high = 2 }",
        r"E2 does not use network.epochs, a setting of nnunet",
    ),
    "the seed": ("seed = { low = 1, high = 2 }", r"seed cannot vary, since"),
    "the experiment": ('experiment = { choices = ["e1", "e2"] }', r"experiment cannot vary"),
    "the data": ('data.name = { choices = ["a"] }', r"data.name cannot vary"),
    "held-out images": ("data.held_out = { low = 0.1, high = 0.2 }", r"data.held_out cannot vary"),
    "fewer training images": (
        "data.train_images = { choices = [16, 40] }",
        r"data.train_images cannot vary, since .*images",
    ),
    "images of another kind": ('data.kind = { choices = ["many"] }', r"data.kind cannot vary, since .* same held-out"),
    "another split": (
        "data.split_seed = { low = 0, high = 3 }",
        r"data.split_seed cannot vary, since .* same held-out",
    ),
    "other masks": ("data.classes = { choices = [{ a = 1 }] }", r"data.classes cannot vary, since .* the same masks"),
    "other rungs": (
        "training.evaluations = { choices = [[0.2], [0.5]] }",
        r"training.evaluations cannot vary, since .* rungs",
    ),
    "another measure": ('inference.resolution = "original"', r"inference.resolution cannot vary, since .* measured"),
    "unused": ("training.validation = { low = 0.1, high = 0.2 }", r"E2 does not use training.validation"),
    "a circle": (
        'diffusion.ends = { choices = ["limited"], when = { diffusion.target = "x0" } }\n'
        'diffusion.target = { choices = ["x0"], when = { diffusion.ends = "limited" } }',
        r"line 16: search.space.diffusion.ends.when: the conditions form a circle \(diffusion.ends → .*target → .*ends\)",
    ),
    "a condition on nothing": (
        'diffusion.bias = { low = 0, high = 1, when = { diffusion.weihgting = "sigmoid" } }',
        r"bias.when: there is no setting diffusion.weihgting; did you mean diffusion.weighting",
    ),
    "a condition on another network": (
        "diffusion.bias = { low = 0, high = 1, when = { network.epochs = 3 } }",
        r"network.epochs is a setting of nnunet, which neither",
    ),
    "a condition that never holds": (
        'diffusion.weighting = { choices = ["sigmoid", "uniform"] }\n'
        'diffusion.bias = { low = 0, high = 1, when = { diffusion.weighting = "sigmoyd" } }',
        r"line 17: .*diffusion.weighting is never \"sigmoyd\" \(did you mean sigmoid\?\)",
    ),
    "a condition on no choice of the start": (
        'diffusion.bias = { low = 0, high = 1, when = { diffusion.weighting = "sigmoyd" } }',
        r"\"sigmoyd\" is refused \(diffusion.weighting: got",
    ),
    "an empty condition": (
        "diffusion.bias = { low = 0, high = 1, when = {} }",
        r"bias.when: got \{\}; allowed is a table",
    ),
    "a list of no conditions": (
        "diffusion.bias = { low = 0, high = 1, when = [3] }",
        r"bias.when: got \[3\]; allowed is a table",
    ),
    "no values": (
        "diffusion.bias = { low = 0, high = 1, when = { diffusion.weighting = [] } }",
        r"diffusion.weighting is \[\]; allowed are",
    ),
    "the low end": (
        "diffusion.temperature = { low = 0.01, high = 1.0 }",
        r"temperature: low, 0.01, is refused \(diffusion.temperature: got 0.01; ",
    ),
    "the low end of a width": (
        "network.width = { low = 16, high = 64, step = 16 }",
        r"width: low, 16, is refused \(network: width is 16, but",
    ),
    "the high end": ("training.ema = { low = 0.9, high = 1.5 }", r"ema: high, 1.5, is refused \(training.ema"),
    "a choice": (
        'diffusion.target = { choices = ["x0", "xo"] }',
        r"target: choice 2, \"xo\", is refused \(diffusion.target",
    ),
    "a fixed value": ("training.batch = 0", r"batch: the value, 0, is refused \(training.batch: got 0"),
    "low above high": ("training.batch = { low = 8, high = 4 }", r"low is 8 and high is 4, but low must be below high"),
    "low and high alike": ("training.batch = { low = 8, high = 8 }", r"low must be below high"),
    "log of zero": (
        "training.learning_rate = { low = 0, high = 1, log = true }",
        r"low is 0, but a range with log = true must be above 0",
    ),
    "log and step": (
        "training.batch = { low = 2, high = 8, log = true, step = 2 }",
        r"log and step exclude each other",
    ),
    "a step that does not fit": (
        "training.batch = { low = 2, high = 9, step = 4 }",
        r"step is 4, but 2 to 9 must be a whole number of steps",
    ),
    "a step of zero": ("training.batch = { low = 2, high = 9, step = 0 }", r"step is 0"),
    "no whole number": (
        "training.batch = { low = 2.5, high = 9 }",
        r"low is 2.5, but training.batch is a whole number",
    ),
    "infinity": (
        "training.learning_rate = { low = 1e-3, high = inf }",
        r"high is Infinity; allowed is a finite number",
    ),
    "text as an end": ('training.batch = { low = "2", high = 9 }', r'low is "2"; allowed is a finite number'),
    "log that is no boolean": (
        "training.batch = { low = 2, high = 9, log = 1 }",
        r"log is 1; allowed are true and false",
    ),
    "half a range": ("training.batch = { low = 2 }", r"high is missing"),
    "a range of text": (
        "diffusion.target = { low = 2, high = 3 }",
        r"diffusion.target is text, which has no range; give choices",
    ),
    "no choices": ("training.batch = { choices = [] }", r"choices is \[\]; allowed is a list of one or more"),
    "a choice twice": ("training.batch = { choices = [2, 4, 2] }", r"choices has 2 more than once"),
    "a list twice": ("network.multipliers = { choices = [[1, 2], [1, 2]] }", r"choices has \[1, 2\] more than once"),
    "choices as text": ('training.batch = { choices = "2" }', r'choices is "2"; allowed is a list'),
    "a range and choices": ("training.batch = { low = 2, choices = [2] }", r"choices and low exclude each other"),
    "an unknown key": (
        "training.batch = { lo = 2, high = 8 }",
        r"unknown key 'lo' \(did you mean low or log\?\); allowed are low, high",
    ),
    "nothing": ("training.batch = { log = true }", r"allowed are a range \(low, high\), choices, or a value"),
    "twice": ('training.batch = 2\n"training.batch" = 4', r"search.space.training.batch: is given twice"),
    "a date": ("training.batch = 2020-01-01", r"search.space.training.batch: got the date"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_space_that_cannot_be_is_refused_in_one_sentence_with_its_line(name, written, tmp_path):
    lines, words = BAD[name]
    check_refused(written(f"[search.space]\n{lines}"), tmp_path, words)


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ("", r"search.space is missing: give one of everything, "),
        ('space = "schedul"', r'line 15: search.space: got "schedul" \(did you mean schedule\?\); allowed are'),
        ("space = 3", r"line 15: search.space: got 3; allowed are"),
        ("[search.space]", r"line 15: search.space: is empty; give settings"),
        (
            f"{SPACE}\n[[search.points]]\ntraining.batch = 2\n[[search.points]]\ntraining.bach = 2",
            r"line 2\d: search.points.2: there is no setting training.bach; did you mean training.batch",
        ),
        (f"{SPACE}\n[[search.points]]\ntraining.batch = 0", r"search.points.1: training.batch: got 0"),
        (f"{SPACE}\n[[search.points]]\ndata.test_images = 9", r"search.points.1: data.test_images cannot vary"),
        (f"{SPACE}\n[[search.points]]\nseed = 1", r"search.points.1: seed cannot vary"),
        (
            f"{SPACE}\n[[search.points]]\ntraining.batch = 2",
            r"line 2\d: search.points.1: training.batch is 2, but search.space fixes it at 4: leave it out of one",
        ),
        (f"points = 3\n{SPACE}", r"line 15: search.points: got 3; write \[\[search.points\]\]"),
        (f"{SPACE}\n[search.constraints]\nparametres = 5", r"no trial records parametres .*did you mean parameters"),
        (
            f"{SPACE}\n[search.constraints]\niou = 0.5",
            r"constraints.iou: of iou more is better, but a limit is .* at most",
        ),
        (
            f"{SPACE}\n[search.constraints]\npeak_memory_bytes = 5",
            r"limited as memory; write search.constraints.memory",
        ),
        (f"{SPACE}\n[search.constraints]\nmemory = '12 Gib'", r'got "12 Gib"; allowed is a number of bytes'),
        (f"{SPACE}\n[search.constraints]\nseconds = 0", r"line 2\d: search.constraints.seconds: got 0; allowed is"),
        (f"constraints = 3\n{SPACE}", r"search.constraints: got 3; allowed is a table"),
    ],
)
def test_other_parts_of_a_search_are_refused_in_one_sentence(search, words, written, tmp_path):
    check_refused(written(search), tmp_path, words)


OUTSIDE = {  # lines of the search and the start, and the warning
    "a start": (
        "",
        "network.width = 160",
        "search.start: network.width is 160, which search.space does not have (32 to 128",
    ),
    "a start off the steps": (
        "training.warmup = { low = 0, high = 8, step = 4 }",
        "training.warmup = 3",
        "search.start: training.warmup is 3, which search.space does not have (0 to 8, step 4)",
    ),
    "a start that is no choice": (
        "",
        "network.multipliers = [2]",
        "network.multipliers is [2], which search.space does not",
    ),
    "a point": ("[[search.points]]\ninference.overlap = 0.6", "", "search.points.1: inference.overlap is 0.6, which"),
    "nothing": ("[[search.points]]\ndiffusion.schedule = 'sigmoid'\ndiffusion.temperature = 1", "", None),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_points_and_starts_outside_of_the_space_are_warned_of_with_their_setting(case, written, caplog):
    search, start, words = OUTSIDE[case]
    file = Path(written(SPACE + search))
    file.write_text(file.read_text() + start)
    read_study(str(file), {}, {})
    warned = [record.message for record in caplog.records]
    assert len(warned) == (words is not None)
    assert all(words in one and one.endswith("the sampler cannot learn from it") for one in warned)


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("training.learning_rate", "search.space"),
        ("training.batch", "search.space"),
        ("inference.steps", "search.fidelities.1"),
    ],
)
def test_a_setting_of_the_command_line_that_the_search_sets_itself_is_refused(setting, key, written, caplog):
    path = written(f"pruning = 3\n{SPACE}\n[[search.fidelities]]\ninference.steps = 2")
    file = Path(path)
    file.write_text(file.read_text().replace("pruning = 0\n", ""))
    words = f"^{setting} is given on the command line, but {key} sets it itself: leave it out, or change it in the study file$"
    with pytest.raises(ConfigError, match=words):
        read_study(path, {}, {setting: 3})
    read_study(path, {}, {"training.steps": 20})
    file.write_text(file.read_text().replace("experiments = []", 'experiments = ["e2"]'))
    assert read_study(path, {}, {setting: 3}).trials  # it applies to these
    assert f"{setting} does not apply to the search, since {key} sets it itself" in caplog.text


def test_a_mistake_is_said_to_be_where_it_was_made(written):
    path = written(SPACE)
    file = Path(path)
    text = file.read_text()
    file.write_text(text + "training.learning = 0.5\n")
    with pytest.raises(
        ConfigError, match=r"training.learning': .* \(\[search.start\] of mine.toml, e2 of synthetic-large\)"
    ):
        read_study(path, {}, {})
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"training.learning': .* \(the command line, e2 of synthetic-large\)"):
        read_study(path, {}, {"training.learning": 0.5})
    file.write_text(text.replace("budget = 9", 'budget = 9\nobjective = ["iou"]'))
    with pytest.raises(ConfigError, match=r"^search.objective: got iou, iou, but each must be named once$"):
        read_study(path, {}, {}, search={"objective": ["iou", "iou"]})
    file.write_text(text.replace("budget = 9", 'budget = 9\nobjective = ["iou", "iou"]'))
    with pytest.raises(ConfigError, match=r"mine.toml, line 14: search.objective: got iou, iou, but each"):
        read_study(path, {}, {})


# ---- constraints and the plan


def test_a_plan_shows_samples_of_the_space_with_their_times(written, tmp_path):
    path = written(SPACE + "\n[search.constraints]\nparameters = 300000\n")
    code, output = call("plan", path, "--store", str(tmp_path / "store"), "--json")
    assert code == 0, output
    samples = json.loads(output)["samples"]
    assert len(samples) == 3
    for one in samples:
        assert "network width" in one["settings"]
        assert "training batch 4" in one["settings"]
        assert (one["seconds"] is None) == (one["refused"] is not None)
    refused = [one["refused"] for one in samples if one["refused"]]
    assert refused
    assert all(reason.startswith("refused: parameters ") and "allows 300,000" in reason for reason in refused)
    code, output = call("plan", path, "--store", str(tmp_path / "store"))
    assert code == 0, output
    assert "proposals such as" in output
    assert "training batch 4" in " ".join(output.split())
    code, output = call("plan", path, "--store", str(tmp_path / "store"), "--space", "weighting", "--json")
    assert "weighting" in json.loads(output)["samples"][0]["settings"]


def test_sizes_and_columns_of_constraints():
    search = parse({"space": "target", "constraints": {"memory": "12 GiB", "ece": 0.05, "parameters": 5e6}})
    assert search.constraints == {"memory": 12 * 2**30, "ece": 0.05, "parameters": 5e6}
    assert parse(json.loads(json.dumps(search.model_dump(mode="json")))) == search
    assert parse({"space": "target", "constraints": {"memory": "1.5 GB"}}).constraints == {"memory": 1.5e9}
    changed = parse({"space": "target", "constraints": {"ece": 0.1}})
    assert search.differences(changed)[0].startswith("search.constraints: {")
