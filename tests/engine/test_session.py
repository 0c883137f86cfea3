"""Sessions: allocate resources, run, stop and resume studies through Ray.

The first tests share one small Ray; the slow ones kill theirs.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from diffseg.errors import UserError
from diffseg.evaluation.registry import ALWAYS, MEASURES
from studies.definition.study import Study
from studies.definition.trial import Trial, trial_name
from studies.engine.resources import Resources, allocate
from studies.engine.scheduler import Scheduler
from studies.engine.session import run
from studies.planning.estimate import estimate_costs
from studies.store.folder import Folder
from studies.store.ledger import Ledger
from studies.store.lock import Lock
from studies.store.state import trial_states

RESULTS = ("status", "iou", "dice", "ece", "brier", "nll")


def study_of(configs, name="study", roots=None):
    return Study(name, tuple(Trial(trial_name(config), config) for config in configs), roots or {})


@pytest.mark.parametrize(
    ("resources", "nodes", "share", "concurrent"),
    [
        (Resources(), [{"CPU": 2}], (1, 0), 2),
        (Resources(2), [{"CPU": 3}, {"CPU": 8}], (2, 0), 5),
        (Resources(), [{"CPU": 16, "GPU": 4}], (1, 1), 4),
        (Resources(1, 0.25), [{"CPU": 16, "GPU": 2}], (1, 0.25), 8),
        (Resources(1, 0), [{"CPU": 4, "GPU": 1}], (1, 0), 4),
        (Resources(4), [{"CPU": 2}, {"CPU": 8, "GPU": 1}], (4, 1), 1),
        (Resources(1, 0, 3), [{"CPU": 16}], (1, 0, 3), 3),
        (Resources(1, 0, 3), [{"CPU": 2}], (1, 0, 3), 2),
        (Resources(2, workers=3), [{"CPU": 4}, {"CPU": 9}], (2, 0, None, 3), 2),
        (Resources(memory=6), [{"CPU": 8, "memory": 20}, {"CPU": 1, "memory": 9}], (1, 0, None, 1, {}, 6), 4),
        (Resources(memory=60), [{"CPU": 8, "memory": 20}, {"CPU": 1, "memory": 9}], (1, 0, None, 1, {}, 20), 1),
        (Resources(memory=60), [{"CPU": 8, "GPU": 2, "memory": 20}], (1, 1, None, 1, {}, 0), 2),
    ],
)
def test_resources_are_allocated_as_requested(resources, nodes, share, concurrent):
    assert allocate(resources, nodes) == (Resources(*share), concurrent)


@pytest.mark.parametrize(
    ("resources", "nodes"),
    [
        (Resources(4), [{"CPU": 3}] * 5),
        (Resources(1, 1), [{"CPU": 8}]),
        (Resources(1, 2), [{"CPU": 8, "GPU": 1}]),
        (Resources(1, 0, workers=3), [{"CPU": 2}]),
        (Resources(labels={"ray.io/accelerator-type": "H100"}), []),
    ],
)
def test_resources_that_no_node_has_are_refused(resources, nodes):
    with pytest.raises(UserError, match=r"no node has them.*--cpus, --gpus or --workers"):
        allocate(resources, nodes)


def test_trials_that_share_a_training_run_one_after_the_other(tiny, tmp_path):
    study = study_of([tiny(inference__steps=2), tiny(inference__steps=3), tiny(seed=1)])
    scheduler, (first, second, third) = (
        Scheduler(study, Ledger(str(tmp_path), "study")),
        [one.name for one in study.trials],
    )
    assert scheduler.next_trial().name == first
    assert scheduler.next_trial({first}).name == third
    assert scheduler.next_trial({first, third}) is None
    assert scheduler.next_trial({third}).name == first
    assert scheduler.next_trial({second}).name == third
    one, other, another = (found.flops for found in estimate_costs(trial.config for trial in study.trials))
    assert other < 0.5 * one
    assert another == one


def test_only_one_session_runs_a_study(tmp_path):
    one, other = (Lock(Folder.open(str(tmp_path))) for _ in range(2))
    assert not one.is_held()
    one.acquire()
    assert other.is_held()
    with pytest.raises(UserError, match=f"process {os.getpid()}"):
        other.acquire()
    one.release()
    other.acquire()


def folder_data(root):
    from test_data import folder

    folder(root)
    return root


@pytest.mark.slow
def test_a_failed_trial_does_not_stop_the_others(ray, tiny, tmp_path, monkeypatch):
    """One trial completes; one of a data set with a truncated file fails and names the file; retry runs the failed one
    again; another run does nothing."""
    monkeypatch.chdir(tmp_path)
    root = folder_data(tmp_path / "data")
    broken = sorted((root / "train/masks").iterdir())[0]
    content = broken.read_bytes()
    broken.write_bytes(content[:50])  # the header, and little more
    good, bad = (
        tiny(experiment="e2"),
        tiny(experiment="e2", data__name="mine", data__layout="folder", data__train_images=None),
    )
    study, ledger = study_of([good, bad], roots={"mine": str(root)}), Ledger(str(tmp_path / "store"), "study")

    assert run(study, ledger, quiet=True)
    first = {state.trial: state for state in trial_states(study, ledger)}
    assert [first[trial.name].status for trial in study.trials] == ["complete", "failed"]
    row = first[study.trials[1].name].row
    assert str(broken) in row["error"]
    assert "truncated" in row["error"]
    assert Path(row["log"]).read_text().count("truncated") >= 1
    complete = next(row for row in ledger.last_rows() if row["status"] == "complete")
    assert complete["digest"] == good.digest
    assert complete["iou"] > 0
    assert complete["seconds"] >= complete["train_seconds"] > 0
    assert complete["config_training_steps"] == 6
    assert json.loads(complete["versions"])["torch"]
    of_one_rater = [metric for metric in MEASURES.values() if not metric.pooled and metric.applies is ALWAYS]
    assert ledger.read("images").num_rows == 4 * (len(of_one_rater) + 1)  # the number of objects, too

    assert Scheduler(study, ledger).done()
    assert Scheduler(study, ledger, retry=True).next_trial() == study.trials[1]
    broken.write_bytes(content)
    assert run(study, ledger, retry=True, quiet=True)
    assert [(state.status, state.attempt) for state in trial_states(study, ledger)] == [
        ("complete", 1),
        ("complete", 2),
    ]
    files = sorted(path.name for path in (tmp_path / "store/study/trials").iterdir())
    assert run(study, ledger, quiet=True)
    assert sorted(path.name for path in (tmp_path / "store/study/trials").iterdir()) == files


@pytest.mark.slow
def test_a_diverging_trial_fails_alone(ray, tiny, tmp_path):
    study = study_of(
        [tiny(training__learning_rate=1e38, training__clip=None, diffusion__activation="identity"), tiny()]
    )
    ledger = Ledger(str(tmp_path), "study")
    assert run(study, ledger, quiet=True)
    failed, complete = trial_states(study, ledger)
    assert (failed.status, complete.status) == ("failed", "complete")
    assert "at step" in failed.row["error"]


@pytest.mark.slow
def test_two_workers_train_a_trial_together(ray, tiny, tmp_path):
    study = study_of([tiny(experiment="e2")])
    rows = []
    for workers in (1, 2):
        ledger = Ledger(str(tmp_path / str(workers)), "study")
        assert run(study, ledger, Resources(workers=workers), quiet=True)
        assert {state.status for state in trial_states(study, ledger)} == {"complete"}
        rows.append(sorted(ledger.last_rows(), key=lambda row: row["trial"]))
    for one, two in zip(*rows, strict=True):
        assert (one["workers"], one["micro_batch"], two["workers"], two["micro_batch"]) == (1, 4, 2, 2)
        assert two["brier"] == pytest.approx(one["brier"], rel=1e-3)
        assert not ledger.folder.exists(f"work/{two['trial']}/progress.json")


# The last tables of the studies that the program runs.
SMALL = """
    data.size = 16
    data.train_images = 40
    data.test_images = 4
    diffusion.target = "x0"
    training.batch = 4
    inference.steps = 2
    inference.ensemble = 2
    inference.timesteps = 4
    inference.timestep_images = 4
    [network.ensemdiff]
    network.width = 32
    network.multipliers = [1, 1]
    network.blocks = 1
    network.attention = [2]
    [data.synthetic-large]
    data.layout = "synthetic"
"""
STUDY = f"""
    experiments = ["e1", "e2", "e3", "e4"]
    [all]
    training.steps = 300
    training.log_every = 10
    training.checkpoint_every = 20
{SMALL}"""


def start(folder, *words, study=STUDY, **options):
    """Start the program on a study, given as TOML, in a process group of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "small.toml").write_text(study)
    command = [sys.executable, "-m", "studies", "run", str(folder / "small.toml"), "--store", str(folder / "store")]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*command, *words, "--no-report"], start_new_session=True, **pipe, **options)


def wait_for_steps(tmp_path, count, timeout=120):
    """Wait until a trial has left a checkpoint of at least `count` steps."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if any(int(path.name[5:13]) >= count for path in tmp_path.rglob("work/*/step-*.pt")):
            return
        time.sleep(0.1)
    raise AssertionError("no trial made a checkpoint in time")


def results(store):
    return {row["trial"]: tuple(row[key] for key in RESULTS) for row in Ledger(str(store), "small").last_rows()}


def kill_tree(process):
    """Kill the whole process tree at once, as when a machine loses power."""
    import psutil

    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in tree:
        try:
            member.send_signal(signal.SIGSTOP)  # so that no process cleans up after the first to die
        except psutil.NoSuchProcess:
            continue
    for member in tree:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()


@pytest.mark.slow
def test_a_deep_ensemble_runs_after_its_members_and_uses_their_networks(ray, tiny, tmp_path):
    config = tiny(experiment="e1", inference__seeds=[1, 2])
    study = study_of([config, *config.members()])  # the ensemble comes first
    ledger = Ledger(str(tmp_path), study.name)
    assert run(study, ledger, address=ray, quiet=True)
    rows = {row["trial"]: row for row in ledger.last_rows(["status", "train_seconds", "finished", "parameters"])}
    together = rows.pop(study.trials[0].name)
    assert {row["status"] for row in rows.values()} == {together["status"]} == {"complete"}
    assert together["train_seconds"] == 0
    assert all(row["finished"] < together["finished"] for row in rows.values())
    assert together["parameters"] == sum(row["parameters"] for row in rows.values())


@pytest.mark.slow
def test_a_study_that_is_killed_twice_ends_bit_for_bit_as_one_that_is_not(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = start(tmp_path / "whole")
    assert whole.wait(300) == 0, whole.stdout.read()
    for steps in (40, 120):
        process = start(tmp_path / "killed")
        wait_for_steps(tmp_path / "killed", steps)
        kill_tree(process)
    last = start(tmp_path / "killed")
    assert last.wait(300) == 0, last.stdout.read()
    found = results(tmp_path / "killed/store")
    assert str(found) == str(results(tmp_path / "whole/store"))  # as text, since some are NaN
    assert [values[0] for values in found.values()] == ["complete"] * 4
    assert Ledger(str(tmp_path / "killed/store"), "small").last_attempts() == dict.fromkeys(found, 1)
    logs = [path.read_text().count(" INFO root: attempt 1 ") for path in (tmp_path / "killed/store").rglob("log.txt")]
    assert max(logs) >= 2  # a trial was resumed


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_within_seconds_and_leaves_a_checkpoint(number, tmp_path):
    process = start(tmp_path)
    wait_for_steps(tmp_path, 20)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    assert process.wait(60) == 130
    output = process.stdout.read()
    assert "the same command resumes" in output
    assert "Traceback" not in output
    stopped = [path for path in tmp_path.rglob("progress.json") if json.loads(path.read_text())["phase"] == "stopped"]
    assert stopped
    for path in stopped:
        step = json.loads(path.read_text())["step"]
        assert max(int(checkpoint.name[5:13]) for checkpoint in path.parent.glob("step-*.pt")) >= step
    assert start(tmp_path).wait(300) == 0
    assert {values[0] for values in results(tmp_path / "store").values()} == {"complete"}


@pytest.fixture
def short():
    """A folder with a short path, for Ray's files."""
    folder = Path(tempfile.mkdtemp(prefix="tests-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def wait_until(holds, timeout=120):
    end = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_ray_starts_ends_with_a_sentence(number, short, tmp_path):
    import psutil

    process = start(tmp_path, env=os.environ | {"RAY_TMPDIR": str(short)})
    wait_until(lambda: list(short.glob("*/session_*")))
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    assert process.wait(60) == 130
    output = process.stdout.read()
    assert "the same command resumes" in output
    assert "Traceback" not in output
    assert list(short.iterdir()) == []
    wait_until(lambda: not any(child.is_running() for child in children))


@pytest.mark.slow
def test_a_second_signal_ends_at_once_and_leaves_nothing_behind(short, tmp_path):
    import psutil

    process = start(tmp_path, env=os.environ | {"RAY_TMPDIR": str(short)})
    wait_for_steps(tmp_path, 20)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 130
    assert process.stdout.read().endswith("diffseg: stopped at once\n")
    wait_until(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))
    (left,) = short.iterdir()
    os.utime(left, (0, 0))
    again = start(tmp_path, env=os.environ | {"RAY_TMPDIR": str(short)})
    assert again.wait(300) == 0, again.stdout.read()
    assert list(short.iterdir()) == []


@pytest.mark.slow
def test_a_dead_worker_and_a_dead_driver_are_replaced(tmp_path):
    import psutil

    process = start(tmp_path)
    for steps, title in ((20, "ray::RayTrainWorker"), (60, "ray::ImplicitFunc")):
        wait_for_steps(tmp_path, steps)
        tree = psutil.Process(process.pid).children(recursive=True)
        victims = [member for member in tree if "".join(member.cmdline()).startswith(title)]
        assert victims, [member.cmdline() for member in tree]
        victims[0].kill()
    assert process.wait(300) == 0, process.stdout.read()
    assert [values[0] for values in results(tmp_path / "store").values()] == ["complete"] * 4


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_one_of_two_workers_that_dies_is_replaced(which, tmp_path):
    import psutil

    study = STUDY.replace('["e1", "e2", "e3", "e4"]', '["e2"]')
    process = start(tmp_path, "--workers", "2", study=study)
    wait_for_steps(tmp_path, 40)
    tree = psutil.Process(process.pid).children(recursive=True)
    victims = [member for member in tree if "".join(member.cmdline()).startswith("ray::RayTrainWorker")]
    assert len(victims) == 2
    sorted(victims, key=lambda member: member.pid)[which].kill()
    assert process.wait(300) == 0, process.stdout.read()
    ((trial, values),) = results(tmp_path / "store").items()
    assert values[0] == "complete"
    assert Ledger(str(tmp_path / "store"), "small").last_attempts() == {trial: 1}
    assert (tmp_path / f"store/small/work/{trial}/log.txt").read_text().count(" INFO root: attempt 1 ") == 2


@pytest.mark.slow
def test_the_cost_of_a_trial_does_not_grow_over_200_trials(tmp_path):
    import psutil

    study = "seeds = " + str(list(range(50))) + STUDY.replace("training.steps = 300", "training.steps = 4")
    process, samples = start(tmp_path, study=study), []
    session, folder = psutil.Process(process.pid), tmp_path / "store/small"
    try:
        while process.poll() is None:
            done = len(list((folder / "trials").glob("*.parquet")))
            scratch = sum(len(files) for *_, files in os.walk(folder / "scratch"))
            open_files = len(os.listdir(f"/proc/{process.pid}/fd"))
            samples.append((done, time.monotonic(), session.memory_info().rss / 2**20, scratch, open_files))
            time.sleep(0.5)
    finally:
        if process.poll() is None:
            kill_tree(process)
    assert process.wait() == 0, process.stdout.read()
    early, late = ([one for one in samples if low <= one[0] < low + 50] for low in (25, 125))
    pace = [(part[-1][1] - part[0][1]) / (part[-1][0] - part[0][0]) for part in (early, late)]
    means = [[sum(column) / len(part) for column in zip(*part, strict=True)][2:] for part in (early, late)]
    print(f"seconds a trial: {pace}; MiB, scratch files, open files of the session: {means}")
    assert len(results(tmp_path / "store")) == 200
    assert pace[1] < 1.25 * pace[0]
    assert means[1][0] < means[0][0] + 30
    assert means[1][1] < means[0][1] + 10
    assert means[1][2] < means[0][2] + 20


def test_ledgers_of_two_studies_are_separate(tmp_path):
    ledger = Ledger(str(tmp_path), "one")
    ledger.write("x", 1, {"trials": [{"status": "complete"}]})
    assert Ledger(str(tmp_path), "two").last_attempts() == {}
