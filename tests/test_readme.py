"""The README's commands are those that the program has. CI runs the quick start and the reading commands for real."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_data import folder, isic16, monuseg_tree
from test_report import configs, ledger_of

from diffseg.fingerprint import quick as patches
from studies.commands import program as cli
from studies.commands.program import main
from studies.store.ledger import Ledger

README = (Path(__file__).parent.parent / "README.md").read_text()
LINES = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("diffseg ")]


def test_the_quick_start_is_two_lines():
    section = README.split("## Quick start")[1].split("\n## ")[0]
    lines = [line for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL) for line in block.splitlines()]
    assert len(lines) == 2
    assert lines[0].endswith("diffseg run quickstart")
    assert lines[1].endswith("pytest")
    assert all(line.startswith("python3 -m venv .venv && .venv/bin/pip install") for line in lines)


@pytest.mark.parametrize("command", [
    pytest.param(line, marks=pytest.mark.slow) if line.startswith("diffseg plan paper") else line  # counts all networks
    for line in COMMANDS if line.split()[1] in ("run", "plan", "data")
])  # fmt: skip
def test_commands_on_data_are_understood(command, tmp_path, monkeypatch):
    """`run` is planned instead, on small data in the official layouts."""
    monkeypatch.chdir(tmp_path)
    isic16(tmp_path / "isic16")
    monuseg_tree(tmp_path / "monuseg")
    folder(tmp_path / "my-folder")
    words = shlex.split(command.replace("/data/", f"{tmp_path}/"))[1:]
    if words[0] in ("run", "plan"):
        words = ["plan", *words[1:], "--store", str(tmp_path / "store"), "--json"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("command", [line for line in COMMANDS if "fingerprint isic16" in line or "recommend" in line])
def test_fingerprints_are_told(command, tmp_path, monkeypatch):
    """Without training, on small data."""
    for name in ("EXAMPLES", "MASKS", "QUERIES", "WINDOWS"):
        monkeypatch.setattr(patches, name, 64)
    monkeypatch.chdir(tmp_path)
    isic16(tmp_path / "isic16")
    words = shlex.split(command.replace("/data/", f"{tmp_path}/"))[1:]
    if words[0] == "fingerprint" and "--quick" not in words:
        words.append("--quick")
    result = CliRunner().invoke(main, [*words, "data.size=16", "--store", str(tmp_path / "store")])
    assert result.exit_code == 0, result.output


def test_the_exit_statuses_are_those_of_the_program():
    rows = {
        int(status)
        for status in re.findall(
            r"^\| (\d+) \| ", README.split("Exit statuses:")[1].split("In a notebook")[0], re.MULTILINE
        )
    }
    assert rows == {0, cli.FAILED_TRIALS, cli.WRONG_USE, cli.MACHINERY, cli.STOPPED}


@pytest.mark.slow
@pytest.mark.parametrize("command", [line for line in COMMANDS if line.split()[1] == "bench"])
def test_the_machine_is_measured(command, tmp_path, monkeypatch):
    """Quickly, at 16 px."""
    monkeypatch.chdir(tmp_path)
    words = [*shlex.split(command)[1:], "--size", "16", "--batch", "2", "--rounds", "3"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {"bench.parquet", "bench.html"}


def test_every_other_command_reads_a_study():
    on_data = ("run", "plan", "data", "fingerprint", "recommend", "bench")
    others = [shlex.split(line)[1] for line in COMMANDS if shlex.split(line)[1] not in on_data]
    assert set(others) >= {"predict", "status", "best", "show", "report", "compare"}
    assert all(name in main.commands for name in others)


def test_the_python_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (example,) = (text for text in examples if "trial.run" in text)
    exec(
        compile(
            example.replace('"training.steps": 100', '"training.steps": 3, "inference.ensemble": 1'),
            "README.md",
            "exec",
        ),
        {},
    )
    assert (tmp_path / "one-trial").is_dir()


def test_the_notebook_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ledger = ledger_of(tmp_path / "results", configs())
    (tmp_path / "results" / ledger.study).rename(tmp_path / "results" / "quickstart")
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (example,) = (text for text in examples if "import analysis" in text)
    exec(compile(example, "README.md", "exec"), {})
    assert "E4 image generation" in capsys.readouterr().out


def test_the_tables_are_read_by_other_programs_as_the_readme_says(tmp_path, monkeypatch):
    import duckdb
    import polars

    monkeypatch.chdir(tmp_path)
    ledger = ledger_of(tmp_path / "results", configs())
    (tmp_path / "results" / ledger.study).rename(tmp_path / "results" / "quickstart")
    trials = Ledger("results", "quickstart").read("trials").to_pandas()
    (query,) = re.findall(r"```sql\n(.*?)```", README, re.DOTALL)
    found = {tuple(key): iou for *key, iou in duckdb.sql(query).fetchall()}
    means = trials.groupby(["scored_on", "dataset", "network"])["iou"].mean()
    assert found == pytest.approx(means.to_dict())
    (example,) = (text for text in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if text.startswith("polars."))
    assert len(eval(example, {"polars": polars})) == len(trials)
