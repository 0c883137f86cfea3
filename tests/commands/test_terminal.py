"""What people see in a terminal: names that can be copied, what differs, what is missing, and what may have been meant."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from finished import copy_store, trial_of
from nnunet_files import write_decathlon
from test_data import folder, write_image, write_mask

from diffseg.config import Config
from studies.commands.program import SECTIONS, main
from studies.definition.study import Study
from studies.definition.trial import Trial, trial_name
from studies.planning import machine
from studies.store.ledger import Ledger

WEIGHTINGS = ("uniform", "snr+1", "min-snr")


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Work in an empty folder, with a cache folder of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


def call(*arguments, status=0, columns=None, **options):
    environment = {"COLUMNS": str(columns)} if columns else {}
    result = CliRunner().invoke(main, [str(one) for one in arguments], env=environment, **options)
    assert result.exit_code == status, (result.output, result.exception)
    return result


def sentence(*arguments):
    """Return the one sentence with which wrong use ends."""
    output = call(*arguments, status=2).output
    assert output.startswith("diffseg: ")
    assert output.count("\n") == 1
    return output


def config(**leaves):
    return Config().with_leaves({key.replace("__", "."): value for key, value in leaves.items()}).resolved()


def write(ledger, trials):
    """Define a study of these configurations, and record each as complete, with an IoU that rises."""
    named = [Trial(trial_name(one), one) for one in trials]
    ledger.define(Study(ledger.study, tuple(named), {}).definition())
    for place, trial in enumerate(named):
        row = {"status": "complete", "experiment": trial.config.experiment, "dataset": trial.config.data.name}
        row |= {"network": trial.config.network.name, "seed": trial.config.seed, "test_images": 4, "seconds": 60.0}
        ledger.write(trial.name, 1, {"trials": [row | {"iou": 0.5 + place / 10, "dice": 0.7, "ece": 0.1}]})
    return [trial.name for trial in named]


@pytest.fixture
def unnamed():
    """A study of three trials that differ in a setting that has no name, and of one that differs from none."""
    trials = [config(experiment="e2", diffusion__target="x0", diffusion__weighting=one) for one in WEIGHTINGS]
    names = write(Ledger("store", "unnamed"), [*trials, config(experiment="e1")])
    return names


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("command", ["status", "best", "plan"])
def test_names_of_trials_are_whole_and_what_differs_is_shown(command, columns, unnamed):
    result = call(command, "unnamed", "--store", "store", columns=columns)
    lines = result.stdout.splitlines()
    for name in unnamed:
        assert sum(line.startswith(name) for line in lines) == 1, result.stdout
    assert columns < 80 or all(len(line) <= columns or line in unnamed or "=" in line or "/" in line for line in lines)
    for weighting in WEIGHTINGS:
        assert result.stdout.count(f"diffusion.weighting={weighting}") == 1
    assert columns < 200 or max(map(len, lines)) > 80


def test_a_pipe_without_columns_is_wide(unnamed, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = call("status", "unnamed", "--store", "store").stdout.splitlines()
    assert [line.partition(" ")[0] for line in lines[1:5]] == unnamed  # a line each
    assert "diffusion.weighting=uniform" in lines[1]


def test_names_of_studies_networks_and_presets_are_whole(unnamed):
    Ledger("store", long := "a study of " + "x" * 60).define(Study(long, (), {}).definition())
    assert long in call("studies", "--store", "store", columns=80).stdout.splitlines()
    assert "published/vaihingen" in call("presets", columns=40).stdout
    assert max(map(len, call("networks", columns=80).stdout.splitlines())) <= 80


def test_best_says_what_is_left_out_and_why(finished):
    result = call("best", "small", "--store", finished, "--json")
    rows = json.loads(result.stdout)
    assert {row["differs"] for row in rows} == {"plain", "pooled"}
    assert "trials left out: 1 of E3 and E4, which segment no images\n" in result.stderr
    assert "no trial of small has measured ged" in sentence("best", "small", "--store", finished, "--metric", "ged")


def test_compare_without_a_baseline_compares_e2_with_e1(finished, tmp_path):
    store = copy_store(finished, tmp_path / "copy")
    ledger = Ledger(str(store), "small")
    ledger.define(ledger.definition() | {"baseline": None})
    rows = json.loads(call("compare", "small", "--store", store, "--json").stdout)
    base = {row["configuration"] for row in rows if row["baseline"]}
    others = {row["configuration"] for row in rows if not row["baseline"]}
    assert base == {"E1 plain"}
    assert "E2" in others


def test_show_is_a_summary_first(finished):
    name = trial_of(finished, "e2")
    lines = call("show", "small", name, "--store", finished).stdout.splitlines()
    assert lines[:2] == [name, "status: complete, attempt 1, 100% of its training done"]
    assert len(lines) < 20
    assert max(map(len, lines)) < 400
    assert '"diffusion"' in call("show", "small", name, "--store", finished, "--config").stdout


def test_the_log_has_steps_losses_and_learning_rates_and_is_followed(finished, tmp_path, monkeypatch):
    store, name = copy_store(finished, tmp_path / "copy"), trial_of(finished, "e2")
    work = store / "small" / "work" / name
    text = call("show", "small", name, "--store", store, "--follow").stdout
    assert re.search(r"step 2 of 6: loss \d\.?\d*, learning_rate 0\.0001\n", text)

    looks = iter(["step 7", "step 8"])

    def is_held(_):
        """Stand in for a session that writes a line between two looks, and then ends."""
        (work / "progress.json").write_text('{"step": 1, "steps": 9, "rate": 1, "phase": "training"}')
        if line := next(looks, None):
            with (work / "log.txt").open("a") as file:
                file.write(f"{line}\n")
        return line is not None

    monkeypatch.setattr("studies.store.following.EVERY", 0)
    monkeypatch.setattr("studies.store.following.Lock.is_held", is_held)
    assert call("show", "small", name, "--store", store, "--follow").stdout == f"{text}step 7\nstep 8\n"


def test_the_status_is_watched_until_the_session_ends(unnamed, monkeypatch):
    ledger, looks = Ledger("store", "unnamed"), iter([True, True, True])

    def is_held(_):
        """Stand in for a session, in which a trial fails between the second look and the third."""
        held = next(looks, False)
        if not held:
            ledger.write(unnamed[0], 2, {"trials": [{"status": "failed", "error": "the loss is nan"}]})
        return held

    monkeypatch.setattr("studies.store.following.EVERY", 0)
    monkeypatch.setattr("studies.store.lock.Lock.is_held", is_held)
    text = call("status", "unnamed", "--store", "store", "--watch").stdout
    assert text.count("4 complete") == 1
    assert text.count("3 complete, 1 failed") == 1
    assert text.endswith("3 complete, 1 failed\n")


@pytest.mark.parametrize("write_data", [folder, write_decathlon], ids=["folder", "nnunet"])
def test_init_writes_a_study_that_can_be_planned(write_data, tmp_path):
    write_data(tmp_path / "own")
    text = call("init", "mine", "own").output
    commented = Path("mine.toml").read_text()
    assert commented.count("\n#") > 10
    words = text.partition("Then: diffseg ")[2].split()
    found = json.loads(call(*words, "--store", "store", "--json").stdout)
    assert [row["trial"][:8] for row in found["trials"]] == ["e1-mine-", "e2-mine-", "e3-mine-"]
    assert ("data.classes = {" in commented.replace("# data.classes", "")) == (write_data is write_decathlon)
    assert "exists" in sentence("init", "mine", "own")
    assert "did you mean own?" in sentence("init", "mine", "owm")
    assert "is no setting of a data set" in sentence("init", "other", "own", "training.steps=3")


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["run", "quickstrat"], "quickstart"),
        (["run", "mime.toml"], "mine.toml"),
        (["status", "unamed"], "unnamed"),
        (["best", "unnamed", "--metric", "dise"], "dice"),
        (["compare", "unnamed", "--class", "al"], "all"),
        (["plan", "paper", "--data", "isic16=own-fodler"], "/own-folder"),
        (["data", "check", "mine", "own-fodler"], "own-folder"),
        (["best", "unnamed", "--metric", "zzz"], None),
        (["cluster", "check", "clutser.yaml"], "cluster.yaml"),
        (["presets", "segdif"], "segdiff"),
        (["settings", "trainig.steps"], "training.steps"),
        (["run", "quickstart", "trainig.steps=3"], "training.steps"),
        (["fingerprnt"], "fingerprint"),
        (["fingerprint", "synthetic-larg", "--quick"], "synthetic-large"),
    ],
)
def test_what_was_meant_is_suggested(arguments, meant, unnamed):
    for name in ("mine.toml", "cluster.yaml"):
        Path(name).write_text("")
    Path("own-folder").mkdir()
    takes_store = arguments[0] in ("run", "status", "best", "compare", "plan")
    text = sentence(*arguments, *(["--store", "store"] if takes_store else []))
    if meant:
        assert re.search(rf"(did you mean|the nearest are) (\S+(, | or ))*\S*{re.escape(meant)}", text), text


def test_a_missing_image_is_answered_with_the_nearest_file(finished):
    Path("image.png").touch()
    trial = trial_of(finished, "e1")
    assert "(did you mean image.png?)" in sentence("predict", "small", trial, "imaeg.png", "--store", finished)


def test_a_data_set_that_is_nearly_one_of_the_studys_is_asked_about(tmp_path):
    folder(tmp_path / "own")
    result = call("plan", "paper-small", "--data", "isic61=own", "--store", "store", "--experiment", "e3", "--json")
    assert "isic61 is taken as a data set of your own (did you mean isic16?)" in result.stderr
    assert "data set of this name" not in call("data", "check", "isic61", "own").stdout


def test_the_list_of_commands_has_whole_sentences():
    text = call(columns=80).output
    assert text == call("--help", columns=80).output
    listed = text.partition("Studies:")[2]
    assert "..." not in listed
    for name in (name for names in SECTIONS.values() for name in names):
        assert re.search(rf"^  {name} .*(\n {{6,}}.*)*\.$", listed, re.MULTILINE), name


def test_the_shell_completes_commands_and_metrics():
    def complete(words):
        environment = {
            "_DIFFSEG_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        }
        return CliRunner().invoke(main, [], env=environment, prog_name="diffseg").output.split()

    manual = (Path(__file__).parents[2] / "studies" / "README.md").read_text(encoding="utf-8")
    assert 'eval "$(_DIFFSEG_COMPLETE=bash_source diffseg)"' in manual
    assert complete("diffseg stat") == ["plain,status"]
    assert "plain,dice" in complete("diffseg best quickstart --metric di")


class TestPlan:
    def test_times_are_ranges_and_follow_from_one_measurement(self, unnamed, monkeypatch):
        speeds = iter([machine.Speed(1e9, 4e9)])  # a second measurement would fail
        monkeypatch.setattr(machine, "measure_speed", lambda: next(speeds))
        first, second = (json.loads(call("plan", "quickstart", "--store", "store", "--json").stdout) for _ in range(2))
        assert first == second
        assert all(row["seconds"][0] < row["seconds"][1] for row in first["trials"])
        text = call("plan", "quickstart", "--store", "store", columns=80).stdout
        assert re.search(r" \d+ (s|min|h) to \d+ (s|min|h)\n", text)

    def test_the_measured_speed_is_that_of_a_processor(self):
        found = machine.measure_speed()
        assert 1e8 < found.slow <= found.fast < 1e13
        assert found.times(2).seconds(1e12)[0] < found.seconds(1e12)[0]

    def test_damaged_measurements_are_made_anew(self, monkeypatch):
        machine.cache_path().parent.mkdir(parents=True)
        machine.cache_path().write_text("[")
        monkeypatch.setattr(machine, "measure_speed", lambda: machine.Speed(1.0, 2.0))
        assert machine.machine_speed(1, 0) == machine.machine_speed(1, 0) == machine.Speed(1.0, 2.0)
        assert list(json.loads(machine.cache_path().read_text())) == [machine.describe_machine()]

    def test_memory_and_disk_are_listed_by_preset(self):
        options = ["network=segdiff", "preset=debug/monuseg", "--experiment", "e2", "--store", "store"]
        found = json.loads(call("plan", "quickstart", *options, "--json").stdout)
        assert {row["preset"] for row in found["trials"]} == {"segdiff debug/monuseg"}
        kept = sum(row["disk"] * row["count"] for row in found["trials"])
        most = max(row["checkpoints"] for row in found["trials"])
        assert most == 8 * max(row["disk"] for row in found["trials"])  # twice weights, EMA and two moments: EMA
        assert found["disk"] == kept + found["side_by_side"] * most
        assert found["memory"] > 0
        assert re.search(r"segdiff debug/monuseg +\d+ .* MiB", call("plan", "quickstart", *options).stdout)

    def test_a_missing_folder_is_refused(self):
        text = sentence("plan", "paper-small", "--data", "isic16=/nowhere", "--store", "store")
        assert "the root of data set isic16 is /nowhere, which is not a folder" in text


class TestDataCheck:
    def test_the_layout_and_the_name_are_distinguished(self, tmp_path):
        folder(tmp_path / "own")
        assert "mine: layout folder, recognised by its files." in call("data", "check", "mine", "own").stdout
        text = call("data", "check", "lidc", "own", "data.layout=folder").stdout
        assert "lidc: layout folder, as given." in text
        assert "data.layout=lidc sets the layout" in text
        assert "recognised by its files (did you mean isic16?)" in call("data", "check", "isic61", "own").stdout

    def test_suggested_commands_keep_the_given_settings(self, tmp_path):
        folder(tmp_path / "own")
        classes = 'data.classes={"tumour": [255]}'
        text = sentence("data", "check", "mine", "own", "data.layout=monuseg", classes, "data.channels=1")
        assert f"`diffseg data check mine own data.layout=folder data.channels=1 '{classes}'` reads it" in text

    @pytest.mark.parametrize("suffix", ["_mask", "_segmentation", "_lesion"])
    def test_suffixes_of_masks_are_recognised_and_said(self, suffix, tmp_path):
        for split, count in (("train", 3), ("test", 2)):
            for number in range(count):
                write_image(tmp_path / f"own/{split}/images/{split}{number}.png")
                write_mask(tmp_path / f"own/{split}/masks/{split}{number}{suffix}.png")
        text = call("data", "check", "mine", "own").stdout
        assert f"masks have the names of their images with {suffix}, which gives masks to all 3 images" in text
        assert "note: " in text

    def test_the_interval_that_the_test_images_give_is_stated(self, tmp_path):
        for split, count in (("train", 3), ("test", 20)):
            for number in range(count):
                write_image(tmp_path / f"own/{split}/images/{split}{number}.png")
                write_mask(tmp_path / f"own/{split}/masks/{split}{number}.png")
        assert "test images" not in call("data", "check", "mine", "own").stdout
        text = call("data", "check", "mine", "own", "--interval", "5").stdout
        assert "only 20 test images: with 20 the mean IoU is known to ±7.0 points (95 %), assuming a standard" in text
        assert "deviation of 15 points between images; ±5 points are wanted, so give at least 38" in text


@pytest.mark.parametrize("installed", [True, False])
def test_tensorboard_is_suggested_where_it_is_installed(installed, finished, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
    text = call("dashboard", "small", "--store", finished, "--tensorboard", "events").stdout
    assert "5 trials in events" in text
    assert "tensorboard --logdir events" in text
    assert ("pip install tensorboard" in text) != installed
