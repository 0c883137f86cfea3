"""`diffseg auto` from a folder to a report, killed on the way."""

import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from test_session import kill_tree

HOURS = 0.1
SETTINGS = (
    "data.size=40",
    "network.multipliers=[1,1]",
    "network.attention=[]",
    "training.batch=4",
    "training.steps=60",
)


def write_images(folder, count=30):
    """Write pictures of bright discs, and their masks."""
    draw = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    rows, columns = np.mgrid[:40, :40]
    for k in range(count):
        y, x, radius = draw.uniform(14, 26), draw.uniform(14, 26), draw.uniform(6, 12)
        disc = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        image = 80 + 70 * disc + draw.normal(0, 20, disc.shape)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"scan{k}.png")
        Image.fromarray((disc * 255).astype(np.uint8)).save(folder / "masks" / f"scan{k}.png")


def start(folder):
    command = [sys.executable, "-m", "studies", "auto", "--data", f"mine={folder / 'mine'}", "--hours", f"{HOURS}"]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*command, "--store", str(folder / "store"), *SETTINGS], start_new_session=True, **pipe)


def kill_when(process, folder, pattern, timeout=600):
    """Kill all processes when a file appears."""
    end = time.monotonic() + timeout
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end, f"{pattern} did not appear in time"
        time.sleep(0.1)
    kill_tree(process)


@pytest.mark.slow
def test_a_folder_becomes_a_report_though_the_command_is_killed_twice(tmp_path):
    write_images(tmp_path / "mine")
    kill_when(start(tmp_path), tmp_path, "store/auto-mine-small/work/*/log.txt")
    kill_when(start(tmp_path), tmp_path, "store/auto-mine/work/*/log.txt")
    last = start(tmp_path)
    output, _ = last.communicate(timeout=1800)
    assert last.returncode == 0, output
    assert "Traceback" not in output
    study, record = tmp_path / "store/auto-mine", json.loads((tmp_path / "store/auto-mine/auto.json").read_text())
    assert [stage["name"] for stage in record["stages"]][:2] == ["small", "planned"]
    assert {name for name, _ in record["skipped"]} | {stage["name"] for stage in record["stages"]} == {
        "small", "planned", "baselines", "search", "seeds",
    }  # fmt: skip
    assert "segments" in (study / "report.html").read_text()
    assert (tmp_path / "store/auto-mine-small/report.html").exists()
    (trial,) = re.findall(r"^Use (e\d-mine-\S+):", output, re.M)
    assert re.search(r"^(Diffusion|Whether diffusion) \(E2\) segments .*feed-forward \(E1\)", output, re.M)
    assert f"diffseg predict auto-mine {trial} my-images/" in output
    states = subprocess.run(
        [sys.executable, "-m", "studies", "status", "auto-mine", "--store", str(tmp_path / "store"), "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    trials = json.loads(states.stdout)
    assert {one["status"] for one in trials} == {"complete"}
    assert {one["attempt"] for one in trials} == {1}  # what was killed was resumed

    again = start(tmp_path)
    output, _ = again.communicate(timeout=600)
    assert again.returncode == 0, output
    assert re.findall(r"^Use (\S+):", output, re.M) == [trial]
    assert json.loads((study / "auto.json").read_text())["stages"] == record["stages"]
