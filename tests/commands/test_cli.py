"""The program as a user meets it. Tests of speed and of standard error run it in a process of its own."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from studies.commands.program import main
from studies.definition.reading import read_study
from studies.store.ledger import Ledger
from studies.store.lock import Lock


def diffseg(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "studies", *arguments], capture_output=True, text=True, **options)


def call(*arguments):
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def store(tmp_path):
    """A store with a half-done quickstart: one trial complete, one failed."""
    ledger, study = Ledger(str(tmp_path), "quickstart"), read_study("quickstart", {}, {})
    ledger.define(study.definition())
    e1, e2, e3 = study.trials[:3]
    numbers = {"iou": 0.8, "dice": 0.9, "ece": 0.01, "brier": 0.05, "nll": 0.2}
    for trial, more in ((e1, numbers), (e2, numbers | {"iou": 0.85, "ece": 0.02})):
        row = {
            "study": "quickstart",
            "status": "complete",
            "experiment": trial.config.experiment,
            "dataset": trial.config.data.name,
            "network": "ensemdiff",
            "seed": 0,
            **more,
        }
        ledger.write(trial.name, 1, {"trials": [row]})
    ledger.write(
        e3.name, 1, {"trials": [{"study": "quickstart", "status": "failed", "error": "the loss is nan at step 3"}]}
    )
    return str(tmp_path)


@pytest.mark.parametrize("arguments", [("--help",), ("status", "quickstart")])
def test_help_and_status_import_neither_torch_nor_ray(arguments, store):
    code = f"""
import sys
from studies.commands.program import main
try:
    main({[*arguments, *(["--store", store] if arguments[0] == "status" else [])]!r})
except SystemExit as end:
    assert not end.code, end.code
loaded = {{"torch", "ray", "numpy", "pandas", "scipy", "optuna", "altair"}} & set(sys.modules)
assert not loaded, loaded
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_pyarrow_without_numpy_reads_values_and_numpy_that_is_there_is_not_hidden():
    code = """
import sys
{first}
from studies.store.light import import_pyarrow
import_pyarrow()
import pyarrow, pyarrow.dataset
table = pyarrow.table({{"a": [1, None], "b": [b"x", None], "c": [[1.5], []]}})
assert pyarrow.dataset.dataset(table).to_table(filter=pyarrow.dataset.field("a").is_valid()).to_pylist() == [
    {{"a": 1, "b": b"x", "c": [1.5]}}
]
assert ("numpy" in sys.modules) == {there}
assert "pandas" not in sys.modules
if {there}:
    assert table.to_pandas()["a"].isna().tolist() == [False, True]
    import pandas
    assert pyarrow.array(pandas.Series([1.0, float("nan")])).null_count == 1
"""
    for first, there in (("", False), ("import numpy", True)):
        subprocess.run([sys.executable, "-c", code.format(first=first, there=there)], check=True)


NEEDED = "import click, pydantic, pyarrow.compute, pyarrow.parquet, rich.console, rich.table"


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["status", "quickstart"]])
def test_help_and_status_take_less_than_twice_the_time_of_their_imports(arguments, store):
    """Compares processor times, the best of five in turns: a busy machine slows both down."""

    def seconds(*line):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *line], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    places = [] if arguments == ["--help"] else ["--store", store]
    pairs = [(seconds("-m", "studies", *arguments, *places), seconds("-c", NEEDED)) for _ in range(5)]
    mine, needed = (min(column) for column in zip(*pairs, strict=True))
    print(f"{' '.join(arguments)}: {mine:.2f} s, what it needs {needed:.2f} s")
    assert mine < 2 * needed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nothing"], "no study 'nothing'"),
        (["status", "nothing"], "no study 'nothing' in the store"),
        (["run", "quickstart", "training.step=1"], "training.steps"),
        (["run", "quickstart", "training.steps=0"], "training.steps: got 0"),
        (["run", "quickstart", "training.steps"], "key=value"),
        (["run", "paper"], "--data isic16=ROOT"),
        (
            ["run", "paper", "--data", "isic16=/nowhere", "--budget", "3"],
            "paper has no search, so it takes no --budget",
        ),
        (["run", "search"], "--data isic16=ROOT"),
        (["run", "search", "--data", "mine=/nowhere", "--space", "spase"], 'search.space: got "spase"'),
        (["run", "search", "--data", "mine=/nowhere", "--objective", "iou,speed"], 'search.objective.1: got "speed"'),
        (["run", "search", "--data", "mine=/nowhere", "--experiment", "e1"], "nothing is left of study search"),
        (["run", "search", "--data", "mine=/nowhere", "data.held_out=0"], "set it, such as data.held_out=0.2"),
        (["plan", "search", "--data", "mine=/nowhere", "training.evaluations=[]"], "or set search.pruning=0"),
        (["compare", "nothing"], "no study 'nothing'"),
        (["run", "paper", "--data", "isic16"], "NAME=ROOT"),
        (["report", "nothing"], "no study 'nothing'"),
        (["plan", "quickstart", "--cpus", "9999"], "no node has them"),
        (["run", "quickstart", "network.multipliers=[1,1,1,1,1,1,1]"], "multiple of 64"),
        (["data", "check", "isic16", "/nowhere"], "not a folder"),
        (["frobnicate"], "there is no command 'frobnicate'"),
    ],
)
def test_mistakes_end_with_one_sentence_and_exit_status_two(arguments, words, tmp_path):
    if "check" not in arguments and arguments[0] != "frobnicate":
        arguments = [*arguments, "--store", str(tmp_path)]
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert words in result.output
    check_sentence(result.output)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "quickstart", "training.steps=0"], "training.steps: got 0"),
        (["status", "nothing"], "no study 'nothing'"),
        pytest.param(["run", "quickstart", "--cpus", "9999"], "no node has them", marks=pytest.mark.slow),  # starts Ray
    ],
)
def test_a_process_writes_its_mistake_to_standard_error_alone(arguments, words, tmp_path):
    result = diffseg(*arguments, "--store", str(tmp_path))
    assert result.returncode == 2, result.stderr
    assert words in result.stderr
    assert result.stdout == ""
    check_sentence(result.stderr)


def check_sentence(text):
    assert text.startswith("diffseg: ")
    assert text.count("\n") == 1
    assert "Traceback" not in text


@pytest.mark.parametrize("below", ["", "/below"])
@pytest.mark.parametrize(
    "command",
    [
        *(
            "run",
            "plan",
            "status",
            "studies",
            "best",
            "report",
            "show",
            "compare",
            "export",
            "compact",
            "retry",
            "predict",
        ),
        *("clean", "delete"),
    ],
)
def test_every_command_refuses_a_store_that_is_a_file(command, below, tmp_path):
    (tmp_path / "file").write_text("")
    arguments = {
        "studies": [],
        "show": ["quickstart", "trial"],
        "predict": ["quickstart", "trial", str(tmp_path), "--output", str(tmp_path / "masks")],
        "export": ["quickstart", "--csv", str(tmp_path / "csv")],
    }.get(command, ["quickstart"])
    result = call(command, *arguments, "--store", f"{tmp_path / 'file'}{below}")
    assert result.exit_code == 2, result.output
    assert f"since {tmp_path / 'file'} is a file: give a folder with --store DIR" in result.output
    check_sentence(result.output)


def test_run_refuses_a_study_with_another_definition(store):
    result = call("run", "quickstart", "training.steps=5", "--store", store)
    assert result.exit_code == 2
    assert "→ 5" in result.output
    assert "--extend" in result.output


def test_status_counts_trials(store):
    rows = json.loads(call("status", "quickstart", "--store", store, "--json").output)
    assert [row["status"] for row in rows] == ["complete", "complete", "failed", *["waiting"] * 9]
    text = call("status", "quickstart", "--store", store).output
    assert "2 complete, 1 failed, 9 waiting" in text
    assert "the loss is nan" in text


def test_studies_lists_the_store_with_states_and_problems(store):
    (Path(store) / "cache").mkdir()  # no study
    (Path(store) / "broken").mkdir()
    (Path(store) / "broken/study.json").write_text("{")
    lock = Lock(Ledger(store, "quickstart").folder)
    lock.acquire()
    try:
        found = json.loads(call("studies", "--store", store, "--json").output)
    finally:
        lock.release()
    assert "search" in [row["study"] for row in found["shipped"]]
    assert all(row["description"].endswith((".", "?")) for row in found["shipped"])
    broken, quickstart = found["studies"]
    assert (broken["study"], broken["trials"], broken["running"]) == ("broken", 0, False)
    assert "study.json cannot be used" in broken["problem"]
    assert (quickstart["running"], quickstart["trials"]) == (True, 18)
    counted = {status: count for status, count in quickstart["counts"].items() if count}
    assert counted == {"complete": 2, "failed": 1, "waiting": 9}
    assert "study.json cannot be used" in " ".join(call("studies", "--store", store).output.split())


def test_studies_of_an_empty_store_says_how_to_start_one(tmp_path):
    result = call("studies", "--store", str(tmp_path / "none"))
    assert result.exit_code == 0
    assert "`diffseg run quickstart` starts one" in " ".join(result.output.split())


def test_best_sorts_and_shows_the_pareto_front(store):
    names = [trial.name for trial in read_study("quickstart", {}, {}).trials]
    rows = json.loads(call("best", "quickstart", "--store", store, "--json").stdout)
    assert [row["trial"] for row in rows] == [names[1], names[0]]
    rows = json.loads(call("best", "quickstart", "--metric", "ece", "--store", store, "--json").stdout)
    assert [row["trial"] for row in rows] == [names[0], names[1]]
    assert len(json.loads(call("best", "quickstart", "--pareto", "--store", store, "--json").stdout)) == 2
    assert names[0] in call("best", "quickstart", "--store", store).output


def test_show_prints_one_trial(store):
    names = [trial.name for trial in read_study("quickstart", {}, {}).trials]
    found = json.loads(call("show", "quickstart", names[2][-8:], "--store", store, "--json").output)
    assert found["trial"] == names[2]
    assert found["error"] == "the loss is nan at step 3"
    assert found["config"]["experiment"] == "e3"
    assert "the loss is nan" in call("show", "quickstart", names[2], "--store", store).output
    result = call("show", "quickstart", "e1-", "--store", store)
    assert result.exit_code == 2
    assert "fits 3 trials" in result.output


def test_plan_lists_the_missing_trials(store):
    found = json.loads(call("plan", "quickstart", "--store", store, "--json").output)
    assert found["missing"] == 9 + 6
    assert [row["missing"] for row in found["trials"]] == [False] * 3 + [True] * 10
    assert [row["count"] for row in found["trials"]] == [1] * 12 + [6]
    assert 0 < found["seconds"][0] < found["seconds"][1]
    assert found["disk"] > 0
    assert "15 of 18 trials to do" in call("plan", "quickstart", "--store", store).output


def test_data_check_exits_with_one_for_problems(tmp_path, monkeypatch):
    from test_data import folder

    monkeypatch.chdir(tmp_path)
    folder(tmp_path)
    assert call("data", "check", "mine", str(tmp_path)).exit_code == 0
    assert Image.open("mine.png").height > 400  # two rows
    assert "cannot be written" in call("data", "check", "mine", ".", "--sheet", "nowhere/sheet.png").output
    (tmp_path / "train/masks/train0.png").unlink()
    result = call("data", "check", "mine", str(tmp_path), "--json")
    assert result.exit_code == 1
    assert len(json.loads(result.stdout)["problems"]) == 1


@pytest.fixture
def masks_at(tmp_path):
    """Return NAME=ROOT of a small data set."""
    from test_data import folder

    folder(tmp_path / "mine")
    return f"mine={tmp_path / 'mine'}"


def test_quick_fingerprint_and_recommendation(masks_at, tmp_path, monkeypatch):
    """The fingerprint has sentences and numbers; `plan` accepts the recommended study."""
    from diffseg.fingerprint import quick as patches

    for name in ("EXAMPLES", "MASKS", "QUERIES", "WINDOWS"):
        monkeypatch.setattr(patches, name, 64)
    common = ["mine", "data.size=16", "--data", masks_at, "--store", str(tmp_path / "store")]
    found = json.loads(call("fingerprint", *common, "--quick", "--json").output)
    assert found["kept"] > found["half"] > found["lost"]
    assert len(found["words"]) >= 3
    assert len(found["error"]) == len(found["weight"]) == 50
    assert "Half is lost at" in call("fingerprint", *common, "--quick").output

    path = tmp_path / "mine.toml"
    result = call("recommend", *common, "--output", str(path))
    assert result.exit_code == 0, result.output
    assert "estimated without training" in result.output
    assert result.stdout.count("\n") == 9  # a line for each choice, and how to run it
    assert result.stderr.count("\n") == 1  # what takes a minute
    result = call("plan", str(path), "--data", masks_at, "--store", str(tmp_path / "store"), "--json")
    assert result.exit_code == 0, result.output
    planned = json.loads(result.output)
    assert planned["missing"] == 1
    assert planned["warnings"] == {}
    (one,) = read_study(str(path), {"mine": masks_at.partition("=")[2]}, {}).trials
    assert one.config.diffusion.density == "profile"
    assert one.config.data.size == 16


@pytest.mark.parametrize("command", ["fingerprint", "recommend"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mine"], "data set mine has no root: give --data mine=ROOT"),
        (["mine", "diffusion.fingerprint=error", "--data", "mine=/nowhere"], "mask-error"),
        (["mine", "experiment=e3", "--data", "mine=/nowhere"], "E2"),
        (["mine", "--data", "mine=/nowhere"], "not a folder"),
        (["mine", "diffusion.fingerprint=dice", "--data", "mine=/nowhere"], "only the squared error is known"),
    ],
)
def test_mistakes_in_fingerprint_commands(command, arguments, words, tmp_path):
    more = ["--quick"] if command == "fingerprint" else []
    result = call(command, *arguments, *more, "--store", str(tmp_path))
    assert result.exit_code == 2, result.output
    assert words in result.output
    assert result.output.count("\n") == 1


def test_windows_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    result = CliRunner().invoke(main, ["status", "quickstart"])
    assert result.exit_code == 2
    assert result.output.startswith("diffseg: diffseg runs on Linux")
    assert result.output.count("\n") == 1
