"""The manuals are true: their commands, snippets and links. CI runs the quick start and the reading commands for real."""

import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from finished import copy_store
from nnunet_files import write_decathlon
from PIL import Image
from test_data import folder, isic16, monuseg_tree
from test_report import configs, ledger_of

from analysis import summaries
from diffseg.fingerprint import quick
from studies.commands import statuses
from studies.commands.program import main

ROOT = Path(__file__).parent.parent.parent
MANUALS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.md"))
           if not any(part.startswith(".") for part in path.relative_to(ROOT).parts) and ".template" not in path.name}  # fmt: skip
README = MANUALS["README.md"]


def blocks(language: str) -> list[str]:
    """All fenced blocks of a language, of all manuals."""
    return [block for text in MANUALS.values() for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)]


COMMANDS = list(dict.fromkeys(
    line for block in blocks("sh") for line in block.splitlines() if line.startswith("diffseg ")
))  # fmt: skip
PLANNED, QUICK = ("run", "plan", "data", "init"), ("fingerprint", "recommend")
READING = (
    "export",
    "status",
    "best",
    "show",
    "report",
    "card",
    "predict",
    "compare",
    "studies",
    "settings",
    "networks",
    "presets",
)


def commands(*names: str) -> list[str]:
    return [line for line in COMMANDS if line.split()[1] in names]


def test_the_front_page_is_short():
    assert len(README.encode()) <= 12 * 1024


def test_the_quick_start_is_two_lines():
    section = README.split("## Quick start")[1].split("\n## ")[0]
    lines = [line for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL) for line in block.splitlines()]
    assert len(lines) == 2
    assert lines[0].endswith("diffseg run quickstart")
    assert lines[1].endswith("pytest")
    assert all(line.startswith("python3 -m venv .venv && .venv/bin/pip install") for line in lines)


@pytest.mark.parametrize("manual", MANUALS)
def test_links_lead_somewhere(manual):
    text = re.sub(r"```.*?```", "", MANUALS[manual], flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = ((ROOT / manual).parent / path).resolve() if path else ROOT / manual
        assert there.exists(), f"{manual} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{manual} links to {target}"


def test_the_results_are_written_from_their_summaries():
    assert MANUALS["studies/RESULTS.md"] == summaries.results(), "run `python -m analysis.summaries`"


@pytest.mark.parametrize("command", [
    pytest.param(line, marks=pytest.mark.slow) if re.match("diffseg (plan|run) (paper|auto) ", line) else line  # take long
    for line in commands(*PLANNED)
])  # fmt: skip
def test_commands_on_data_are_understood(command, tmp_path, monkeypatch):
    """`run` is planned instead, on small data in the official layouts, and without other studies to start from."""
    monkeypatch.chdir(tmp_path)
    command = re.sub(r" --warm-start \S+", "", command)
    isic16(tmp_path / "isic16")
    monuseg_tree(tmp_path / "monuseg")
    folder(tmp_path / "my-folder")
    write_decathlon(tmp_path / "Task04_Hippocampus")
    words = shlex.split(command.replace("/data/", f"{tmp_path}/"))[1:]
    if words[:2] == ["plan", "auto"]:
        words += ["--store", str(tmp_path / "store"), "data.size=16"]
    elif words[0] in ("run", "plan"):
        words = ["plan", *words[1:], "--store", str(tmp_path / "store"), "--json"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("block", blocks("toml"))
def test_study_files_are_understood(block, tmp_path):
    """A block that shows a search alone gets a data set, held-out images and a rung."""
    words = ["plan", str(tmp_path / "study.toml"), "--store", str(tmp_path), "--json"]
    if "[data." not in block and "[search]" in block:
        block += '[data.synthetic-large]\ndata.layout = "synthetic"\n'
        words += ["data.held_out=0.2", "training.evaluations=[0.5]"]
    (tmp_path / "study.toml").write_text(block)
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("command", commands(*QUICK))
def test_fingerprints_are_estimated(command, tmp_path, monkeypatch):
    """Without training, on small data."""
    for name in ("EXAMPLES", "MASKS", "QUERIES", "WINDOWS"):
        monkeypatch.setattr(quick, name, 64)
    monkeypatch.chdir(tmp_path)
    isic16(tmp_path / "isic16")
    words = shlex.split(command.replace("/data/", f"{tmp_path}/"))[1:]
    if words[0] == "fingerprint" and "--quick" not in words:
        words.append("--quick")
    result = CliRunner().invoke(main, [*words, "data.size=16", "--store", str(tmp_path / "store")])
    assert result.exit_code == 0, result.output


@pytest.mark.sampled(5)
@pytest.mark.parametrize("command", [line for line in commands(*READING, "clean") if " --store s3:" not in line])
def test_commands_that_read_or_clean_a_study(command, finished, tmp_path, monkeypatch):
    """On a small study that has been run, under the name of the command's."""
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)[1:]
    store = copy_store(finished, tmp_path / "copy")
    if words[0] not in ("studies", "settings", "networks", "presets"):
        (store / "small").rename(store / words[1])
    (tmp_path / "my-images").mkdir()
    Image.fromarray(np.full((20, 30, 3), 99, dtype=np.uint8)).save(tmp_path / "my-images" / "a.png")
    store_option = [] if words[0] in ("settings", "networks", "presets") else ["--store", str(store)]
    result = CliRunner().invoke(main, [*words, *store_option])
    if words[0] == "best" and "search" in words:  # the small study has none
        assert result.exit_code in (0, 2), result.output
    else:
        assert result.exit_code == 0, result.output


@pytest.mark.slow
@pytest.mark.parametrize("command", commands("bench"))
def test_the_machine_is_measured(command, tmp_path, monkeypatch):
    """Quickly, at 16 px."""
    monkeypatch.chdir(tmp_path)
    words = [*shlex.split(command)[1:], "--size", "16", "--batch", "2", "--rounds", "3"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {"bench.parquet", "bench.html"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_exists(command):
    words = shlex.split(command)[1:]
    group: click.Group = main
    while isinstance(found := group.get_command(click.Context(group), words[0]), click.Group):
        group, words = found, words[1:]
    assert found is not None, command
    found.make_context(words[0], words[1:])


def test_all_commands_of_the_manuals_are_run_by_a_test():
    """But for those that need a cluster or a session, whose options are checked above."""
    elsewhere = ("auto", "bench", "cluster", "stop")
    assert {line.split()[1] for line in COMMANDS} <= {*PLANNED, *QUICK, *READING, "clean", *elsewhere}


def test_the_exit_statuses_are_those_of_the_program():
    table = MANUALS["studies/README.md"].split("| exit status |")[1].split("\n\n")[0]
    rows = {int(status) for status in re.findall(r"^\| (\d+) \| ", table, re.MULTILINE)}
    assert rows == {0, statuses.FAILED_TRIALS, statuses.WRONG_USE, statuses.MACHINERY, statuses.STOPPED}


@pytest.mark.parametrize("block", [text for text in blocks("python") if text.startswith("# tests/")])
def test_examples_of_how_to_add_are_those_that_tests_run(block):
    first, _, code = block.partition("\n")
    source = (ROOT / first.removeprefix("# ")).read_text(encoding="utf-8")
    unindented = [line.strip() for line in source.splitlines()]
    wanted = [line.strip() for line in code.strip().splitlines()]
    starts = [k for k, line in enumerate(unindented) if line == wanted[0]]
    assert any(unindented[k : k + len(wanted)] == wanted for k in starts), f"{first} does not hold this example"


def test_the_example_without_ray_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = (text for text in blocks("python") if "trial.run(config, root=None" in text)
    short = example.replace('"training.steps": 100', '"training.steps": 3, "inference.ensemble": 1')
    exec(compile(short, "README.md", "exec"), {})
    assert (tmp_path / "one-trial").is_dir()


def test_the_notebook_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ledger = ledger_of(tmp_path / "results", configs())
    (tmp_path / "results" / ledger.study).rename(tmp_path / "results" / "quickstart")
    (example,) = (text for text in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "import analysis" in text)
    exec(compile(example, "README.md", "exec"), {})
    assert "E4 image generation" in capsys.readouterr().out
