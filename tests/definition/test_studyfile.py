"""Files that are not study files: each is refused in one sentence that names file and key, in bounded time and memory."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffseg.config import Config, parse_leaf
from diffseg.errors import ConfigError, UserError
from studies.definition import expansion as module
from studies.definition import textfile
from studies.definition.reading import read_study

DATA = '[data.synthetic-a]\ndata.layout = "synthetic"\n'
CASES = {
    "a date": ("[all]\ntraining.steps = 2020-01-01", r"all.training.steps: got the date 2020-01-01; allowed are .*a number"),
    "a time": ("[all]\ntraining.steps = 07:32:00", r"all.training.steps: got the time"),
    "a moment": ("seeds = [2020-01-01T00:00:00Z]", r"seeds.0: got the date .*; a whole number belongs there"),
    "no such date": ("baseline = 2020-02-31", r"not TOML|cannot be read"),
    "seeds are text": ('seeds = "0"', r"seeds: got '0'; a list belongs there"),
    "a seed is text": ('seeds = ["0"]', r"seeds.0: got '0'; a whole number belongs there"),
    "a seed is true": ("seeds = [true]", r"seeds.0: got True; a whole number belongs there"),
    "a seed is a number": ("seeds = [0.5]", r"seeds.0: got 0.5; a whole number belongs there"),
    "a seed is negative": ("seeds = [-1]", r"seeds.0: got -1; input should be greater than or equal to 0"),
    "a seed is huge": ("seeds = [99999999999999999999]", r"seeds.0: got 9+; input should be less"),
    "no seeds": ("seeds = []", r"seeds: got an empty list; at least one"),
    "no experiments": ("experiments = []", r"nothing is left of study mine"),
    "an experiment": ('experiments = ["e9"]', r"experiments.0: got 'e9'; allowed are 'e1', 'e2'"),
    "an experiment's table": ("[experiment.e9]\ntraining.steps = 1", r"experiment.e9: got 'e9'; allowed are 'e1'"),
    "a list for a table": ("all = []", r"all: got an empty list; a table belongs there"),
    "tables for a table": ("[[all]]\ntraining.steps = 1", r"all: got a list; a table belongs there"),
    "a number for a table": ("network = 3", r"network: got 3; a table belongs there"),
    "a number for a network": ("[network]\nsegdiff = 3", r"network.segdiff: got 3; a table belongs there"),
    "a number for a data set": ("data = {x = 1}", r"data.x: got 1; a table belongs there"),
    "a variant is a list": ("[[variant.x]]\n", r"variant.x: got a list; a table belongs there"),
    "a search is a list": ("search = [1]", r"search: got a list; a table belongs there"),
    "a search's data": ('[search]\nspace = "target"\ndata = "x"', r"search.data: got 'x'; a list belongs there"),
    "a search's start": ('[search]\nspace = "target"\nstart = 1', r"search.start: got 1; a table belongs there"),
    "a search's date": ('[search]\nspace = 2020-01-01', r"search.space: got the date"),
    "a search's space": ('[search]\nspace = ["target"]', r"search.space: got \[.target.\]"),
    "a baseline": ("baseline = 3", r"baseline: got 3; text belongs there"),
    "infinity": ("[all]\ntraining.learning_rate = inf", r"training.learning_rate"),
    "not a number": ("[all]\ntraining.learning_rate = nan", r"training.learning_rate"),
    "a huge number": ("[all]\ntraining.steps = 99999999999999999999", r"training.steps: got 9+; whole numbers are at most"),
    "thousands of digits": ("[all]\ntraining.steps = " + "9" * 5000, r"cannot be read \(Exceeds the limit"),
    "hexadecimal digits": ("[all]\ntraining.steps = 0x" + "f" * 9000, r"training.steps: got a value that is too long"),
    "hexadecimal seeds": ("seeds = [0x" + "f" * 9000 + "]", r"seeds.0: got a number of thousands of digits"),
    "a preset": ("[all]\npreset = 3", r"has no preset '3'"),
    "a preset is a list": ("[all]\npreset = [1]", r"has no preset '\[1\]'"),
    "a network's name": ("[all]\nnetwork.name = []", r"network.name: got \[\]; allowed are"),
    "a table for a value": ("[all]\ntraining.steps.more = 1", r"training.steps.more"),
    "duplicates": ("[all]\na = 1\na = 2", r"not TOML: Cannot overwrite a value"),
    "deep lists": ("a = " + "[" * 100_000, r"nested too deeply|not TOML"),
    "deep tables": ("a = " + "{a=" * 100_000, r"nested too deeply|not TOML"),
    "lists in lists": ("[all]\ntraining.steps = " + "[" * 200 + "]" * 200, r"mine.toml|too deeply"),
    "a long key": (".".join(["a"] * 100_000) + " = 1", r"line 1 .* a key of more than 16 parts"),
    "a long quoted key": ("[" + " . ".join(['"a b"'] * 1000) + "]", r"line 1 .* a key of more than 16 parts"),
    "too many trials": (f"seeds = {list(range(5000))}\n[variant]\n" + "".join(f"v{i} = {{}}\n" for i in range(20)), r"trials, but"),
    "a long data set": (f"[data.{'x' * 300}]\ndata.layout = 'synthetic'", r"trial's name .* has \d+ bytes, but at most"),
    "an ensemble of many": (f"[all]\ninference.seeds = {list(range(200))}", r"trial's name .* inference.seeds fewer seeds"),
    "markup": ("['[/red]']\na = 1", r"unknown tables \[/red\]"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_entry_is_refused_in_one_sentence(case, tmp_path):
    text, words = CASES[case]
    path = tmp_path / "mine.toml"
    path.write_text(text + "\n" + ("" if text.startswith(("[data.x", "data")) else DATA), encoding="utf-8")
    with pytest.raises(UserError, match=words) as error:
        read_study(str(path), {}, {})
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe[\x00a", r"line 1 of .*mine.toml is not UTF-8"),
        (b"seeds = [0]\n# \xe4", r"line 2 of .*mine.toml is not UTF-8"),
        (b"a = 1\x00", "is not TOML"),
        (b"", "no data set of mine has a root"),
        (b" " * (textfile.LARGEST + 1), "larger than 1,048,576 bytes"),
    ],
)
def test_bytes_that_are_not_a_study_file_are_refused_in_one_sentence(content, words, tmp_path):
    (tmp_path / "mine.toml").write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        read_study(str(tmp_path / "mine.toml"), {}, {})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["folder", "pipe", "huge", "long", "null", "secret"])
def test_anything_but_a_regular_file_is_refused_in_one_sentence(kind, tmp_path):
    path = tmp_path / "mine.toml"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "huge":  # a hole: it takes no room
        with path.open("wb") as file:
            file.truncate(1 << 30)
    elif kind == "secret":
        path.symlink_to("/proc/self/mem")
    name = {"long": "x" * 5000 + ".toml", "null": "a\0.toml"}.get(kind, str(path))
    with pytest.raises(UserError, match=r"is a folder|is a pipe|larger than|cannot be read"):
        read_study(name, {}, {})


def test_a_byte_order_mark_is_accepted(tmp_path):
    (tmp_path / "mine.toml").write_text(DATA, encoding="utf-8-sig")
    assert len(read_study(str(tmp_path / "mine.toml"), {}, {}).trials) == 4


def test_the_number_of_trials_is_limited(tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_text(f"seeds = [0, 1]\n{DATA}")
    monkeypatch.setattr(module, "MOST_TRIALS", 8)
    assert len(read_study(str(tmp_path / "mine.toml"), {}, {}).trials) == 8
    monkeypatch.setattr(module, "MOST_TRIALS", 7)
    with pytest.raises(UserError, match="describes 8 trials, but a study has at most 7: give fewer seeds or variants"):
        read_study(str(tmp_path / "mine.toml"), {}, {})


@pytest.mark.parametrize(
    "text",
    ["training.steps=" + "9" * 5000, "training.steps=" + "[" * 100_000, "network=[]", "network.name={}", "preset=[1]", "seed=1e999",
     "training.steps=99999999999999999999", "data=3", "network=" + "1" * 4000, "data.foreground=" + "[" * 900 + "]" * 900],
)  # fmt: skip
def test_bad_settings_of_the_command_line_are_refused_in_one_sentence(text, tmp_path):
    with pytest.raises(ConfigError) as error:
        Config().with_leaves(dict([parse_leaf(text)]))
    assert "\n" not in str(error.value)
    (tmp_path / "mine.toml").write_text(DATA)
    with pytest.raises(UserError):
        read_study(str(tmp_path / "mine.toml"), {}, dict([parse_leaf(text)]))


SCALARS = (
    st.none().map(lambda _: "2020-01-01")
    | st.integers().map(str)
    | st.floats().map(repr)
    | st.booleans().map(lambda value: str(value).lower())
    | st.sampled_from(["e1", "e2", "x0", "target", "segdiff", "synthetic", "folder", "synthetic-a", "iou"]).map(repr)
    | st.text(max_size=8).map(lambda text: '"' + text.encode("unicode_escape").decode().replace('"', "") + '"')
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda values: f"[{', '.join(values)}]")
        | st.lists(inner, max_size=2).map(
            lambda values: "{" + ", ".join(f"k{i} = {v}" for i, v in enumerate(values)) + "}"
        )
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [*Config().leaves(), "seeds", "experiments", "baseline", "all", "network", "data", "search", "space", "budget", "objective",
     "confirm", "sampler", "start", "preset", "network.name", "data.layout", "variant", "x", "training", "a.b"]
)  # fmt: skip
HEADS = st.sampled_from(
    ["[all]", "[network.segdiff]", "[network.ensemdiff]", "[data.synthetic-a]", "[data.b]", "[experiment.e1]", "[variant.x]",
     "[variant.y]", "[search]", "[search.start]", "[[all]]", "[other]", "[network]", ""]
)  # fmt: skip
LINES = st.lists(HEADS | st.tuples(KEYS, VALUES).map(" = ".join), max_size=8).map("\n".join)
CONTENT = LINES.map(str.encode) | LINES.map(lambda text: f"{text}\n{DATA}".encode()) | st.binary(max_size=40)


def never_more_than_a_user_error(content, folder):
    path = folder / "mine.toml"
    path.write_bytes(content)
    said = ""
    try:
        read_study(str(path), {"own": "/data"}, {})
    except UserError as error:
        said = str(error)
    assert "\n" not in said


FUZZ = {"suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


@settings(max_examples=100, **FUZZ)
@given(CONTENT)
def test_no_study_file_ends_in_a_traceback(tmp_path, content):
    never_more_than_a_user_error(content, tmp_path)


@pytest.mark.slow
@settings(max_examples=3000, **FUZZ)
@given(CONTENT)
def test_no_study_file_of_many_ends_in_a_traceback(tmp_path, content):
    never_more_than_a_user_error(content, tmp_path)
