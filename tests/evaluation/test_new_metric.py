"""A new metric is a function and an entry: example_metric.py, in a process that has it from the start."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

STUDY = """
    baseline = "plain"
    experiments = ["e1"]
    [all]
    training.steps = 2
    training.batch = 4
    training.precision = "float32"
    data.size = 16
    data.train_images = 8
    data.test_images = 4
    inference.ensemble = 2
    inference.examples = 1
    [network.ensemdiff]
    network.width = 32
    network.multipliers = [1, 1]
    network.blocks = 1
    network.attention = []
    [data.synthetic-large]
    data.layout = "synthetic"
    [variant.plain]
    [variant.slow]
    training.learning_rate = 1e-6
"""
SCRIPT = """
import example_metric  # before all that reads the registry

from pathlib import Path

from click.testing import CliRunner

from studies.commands.program import main
from studies.definition.reading import read_study
from studies.engine.request import build_request
from studies.engine.resources import Resources
from studies.engine.worker import run_trial
from studies.store.ledger import Ledger

study = read_study("study.toml", {}, {}, command="diffseg run study.toml")
ledger = Ledger("store", "study")
ledger.define(study.definition())
for trial in study.trials:
    assert run_trial(build_request(study, ledger, Resources(gpus=0), (None, False), trial)) == "complete"
for command in ("best study --metric area_error --json", "compare study --json", "report study"):
    words = command.split()
    result = CliRunner().invoke(main, [*words, "--store", "store"])
    assert result.exit_code == 0, result.output
    Path(words[0]).write_text(result.output)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where a study was run with the new metric, with what the commands printed in files of their names."""
    folder = tmp_path_factory.mktemp("new-metric")
    (folder / "study.toml").write_text(STUDY)
    path = {"PYTHONPATH": str(Path(__file__).parent), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    found = subprocess.run([sys.executable, "-c", SCRIPT], cwd=folder, env=path, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return folder


@pytest.mark.slow
def test_a_new_metric_is_recorded_and_ordered_by(folder):
    from studies.store.ledger import Ledger

    best = json.loads((folder / "best").read_text())
    values = [row["area_error"] for row in best]
    assert len(best) == 2
    assert values == sorted(values)
    ledger = Ledger(str(folder / "store"), "study")
    rows = [row for row in ledger.read("images").to_pylist() if row["metric"] == "area_error"]
    for row in best:
        own = [one["value"] for one in rows if one["trial"] == row["trial"]]
        assert row["area_error"] == pytest.approx(sum(own) / 4)


def test_a_new_metric_is_compared_and_reported(folder):
    compared = [row for row in json.loads((folder / "compare").read_text()) if row["metric"] == "area_error"]
    assert [row["configuration"] for row in compared] == ["plain", "slow"]
    assert {row["units"] for row in compared} == {4}
    assert "error of the area" in (folder / "store" / "study" / "report.html").read_text()
