"""Large studies: merged files hold what was written, and commands on ten thousand trials take seconds (slow)."""

import shutil
import subprocess
import sys
import time

import pytest
from generated import generate
from test_report import browser, opened  # noqa: F401
from test_session import kill_tree

from analysis import tables
from analysis.figures import draw_figures
from analysis.report import write_report
from diffseg.evaluation.registry import METRICS
from studies.commands.tables.cells import MOST_ROWS
from studies.commands.tables.named_table import NamedTable
from studies.commands.tables.trials import best_tables, distinguish_trials, status_table
from studies.definition.study import stored_study
from studies.definition.trial import trial_name
from studies.store.best import best_trials
from studies.store.compaction import compact
from studies.store.ledger import Ledger
from studies.store.state import trial_states
from studies.store.validity import is_merged


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("store"), trials=240, timesteps=40, images=12)


@pytest.mark.slow
def test_merging_a_study_changes_no_answer(ledger):
    study = stored_study("generated", ledger.definition())

    def read_all():
        found = tables.load([ledger])
        charts = {figure.name: figure.chart.to_dict() for figure in draw_figures(found.shown()) if figure.chart}
        return {
            "states": sorted(state.trial for state in trial_states(study, ledger) if state.status == "complete"),
            "best": [best_trials(study, ledger, metric, pareto=False) for metric in ("iou", "ece")],
            "front": best_trials(study, ledger, "iou", pareto=True),
            "charts": charts,
        }

    before = read_all()
    assert len(before["states"]) == len(study.trials) > 200
    assert len(before["charts"]) > 8
    compact(ledger)
    assert all(map(is_merged, ledger.files.counted_names("images")))
    assert read_all() == before


def test_long_tables_are_cut_and_report_it(ledger):
    study = stored_study("generated", ledger.definition())
    found = trial_states(study, ledger)
    table = status_table(study, ledger, found)
    assert len(table.rows) == MOST_ROWS
    assert f"{len(found) - MOST_ROWS} more lines, which --json shows" in table.caption
    rows = best_trials(study, ledger, "iou", pareto=False)
    differing = distinguish_trials(study, ledger, [row["trial"] for row in rows])
    shown = [one for one in best_tables(rows, "iou", differing).renderables if isinstance(one, NamedTable)]
    assert sum(len(table.rows) for table in shown) == min(MOST_ROWS, len(rows))


@pytest.mark.slow
def test_no_trial_of_the_front_is_dominated(ledger):
    study = stored_study("generated", ledger.definition())
    rows = best_trials(study, ledger, "iou", pareto=False)
    front = {row["trial"] for row in best_trials(study, ledger, "iou", pareto=True)}

    def is_dominated(row):
        return any(
            other["iou"] >= row["iou"]
            and other["ece"] <= row["ece"]
            and (other["iou"], other["ece"]) != (row["iou"], row["ece"])
            for other in rows
        )

    assert front == {row["trial"] for row in rows if not is_dominated(row)}
    results = tables.load([ledger])
    assert set(results.pareto()["trial"]) == front
    assert list(results.best()["trial"])[:5] == [row["trial"] for row in rows[:5]]
    assert set(METRICS) <= set(results.best())


@pytest.mark.slow
def test_the_report_of_a_thousand_trials_opens_within_two_seconds(tmp_path, browser):  # noqa: F811
    ledger = generate(tmp_path, trials=1000, timesteps=200, images=100)
    path = write_report([ledger], tmp_path / "report.html")
    assert path.stat().st_size < 15e6
    page = browser(1280)
    page.get("about:blank")
    assert min(opened(page, path) for _ in range(3)) < 2


@pytest.mark.slow
def test_commands_on_ten_thousand_trials_take_seconds(tmp_path):
    """Each trial has 1,000 noise levels and 400 images. status and best take 2 s, the report 60 s, each at most 2 GiB."""
    ledger = generate(tmp_path, trials=10_000, timesteps=1000, images=400)
    compact(ledger)
    for command, seconds in (("status", 2), ("best", 2), ("report", 60)):
        taken, peak = min(measure(command, tmp_path) for _ in range(3))
        print(f"{command}: {taken:.1f} s, {peak / 2**30:.2f} GiB")
        assert taken < seconds
        assert peak < 2 * 2**30
    assert (tmp_path / "generated" / "report.html").stat().st_size < 15e6


def measure(command: str, store) -> tuple[float, int]:
    """Return the seconds and the peak memory in bytes of a command. A small process starts it, since its memory counts too."""
    line = [sys.executable, "-m", "studies", command, "generated", "--store", str(store)]
    starter = """
import resource, subprocess, sys, time
clock = time.monotonic()
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(time.monotonic() - clock, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""
    done = subprocess.run([sys.executable, "-c", starter, *line], capture_output=True, text=True, check=True)
    seconds, peak = done.stdout.split()
    return float(seconds), int(peak)


@pytest.mark.slow
def test_a_study_of_ten_thousand_trials_resumes_within_ten_seconds(tmp_path, tiny):
    """Ray's own start takes a part of that, as a study of one trial shows."""
    ledger = generate(tmp_path, trials=10_000, timesteps=20, images=4)
    compact(ledger)
    definition, config = ledger.definition(), tiny(experiment="e1", training__steps=2)
    name = trial_name(config)
    fresh = definition | {"study": "fresh", "trials": {name: config.model_dump(mode="json")}}
    ledger.define(definition | {"trials": definition["trials"] | fresh["trials"]})
    Ledger(str(tmp_path), "fresh").define(fresh)
    taken = {}
    for study in ("fresh", "generated", "fresh", "generated"):
        shutil.rmtree(tmp_path / study / "work", ignore_errors=True)
        line = [sys.executable, "-m", "studies", "run", study, "--store", str(tmp_path), "--no-report"]
        clock = time.monotonic()
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        while not (tmp_path / study / "work" / name / "progress.json").exists():
            assert process.poll() is None
            time.sleep(0.02)
        taken[study] = min(taken.get(study, 100), time.monotonic() - clock)
        kill_tree(process)
    print({study: f"{seconds:.1f} s" for study, seconds in taken.items()})
    assert taken["generated"] - taken["fresh"] < 5
    assert taken["generated"] < 10 or taken["fresh"] > 6  # Ray itself starts slowly on this machine
