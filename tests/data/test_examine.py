"""Commands refuse data sets that cannot be used with one sentence and exit status 2, before they write anything."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_data import config, folder, write_image, write_mask
from test_layouts import volumes
from test_partition import patients

from diffseg import data
from diffseg.data import cache
from diffseg.errors import DataError
from studies.commands.program import main
from studies.definition.reading import read_study

SMALL = ["data.size=16", "data.channels=3"]


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def no_root(root):
    folder(root.with_name("elsewhere"))
    return "which is not a folder"


def no_masks(root):
    folder(root)
    for path in root.rglob("masks/*"):
        path.unlink()
    return "/train/masks holds no picture or volume"


def no_test_images(root):
    folder(root)
    for path in root.glob("test/*/*"):
        path.unlink()
    return "/test/images holds no picture or volume"


def one_training_image(root):
    folder(root)
    for path in root.glob("train/*/train[01].png"):
        path.unlink()
    return "has a single training image, train2: at least two"


def two_images(root):
    for name in "ab":
        write_image(root / "images" / f"{name}.png")
        write_mask(root / "masks" / f"{name}.png")
    return "has a single training image: at least two"


def one_patient(root):
    patients(root, {"p1": 6})
    return "are of one patient or volume, p1"


def too_few_to_hold_out(root):
    folder(root)
    for path in root.glob("train/*/train2.png"):
        path.unlink()
    return "data.held_out=0.2 of the 2 training images of mine holds out 0"


def one_patient_to_hold_out(root):
    patients(root, {"p1": 6, "p2": 1})
    return "but all 6 training images of mine are of p1"


def patient_in_both(root):
    patients(root, {"p1": 4, "p2": 4})
    table = (root / "split.csv").read_text().splitlines()
    splits = ["split", *["train", "test"] * 4]
    (root / "split.csv").write_text("\n".join(map(",".join, zip(table, splits, strict=True))))
    return "patients or groups are in both splits: p1, p2"


def text_for_an_image(root):
    folder(root)
    (root / "train/images/train1.png").write_text("hello" * 50)
    return "train1.png"


def empty_mask_file(root):
    folder(root)
    (root / "train/masks/train1.png").write_bytes(b"")
    return "masks/train1.png"


def mask_of_another_size(root):
    folder(root)
    write_mask(root / "test/masks/test0.png", size=(9, 9))
    return "test0.png is 9 × 9 px, but its image is 24 × 20"


def two_channels(root):
    volumes(root, shape=(20, 24, 5, 2))
    return "have 2 channels, but data.channels is 3: set data.channels=2"


def mixed_channels(root):
    volumes(root, shape=(20, 24, 5, 3))
    other = root.with_name("other")
    volumes(other, shape=(20, 24, 5, 2))
    (other / "images/c.nii.gz").replace(root / "images/c.nii.gz")
    return "c.nii.gz has 2 channels, others have 3"


def another_volume(root):
    volumes(root, mask_shape=(20, 24, 4))
    return "masks/a.nii.gz"


FAULTS = [value for value in list(globals().values()) if getattr(value, "__module__", "") == __name__ and value != call]
ONLY_HELD_OUT = (too_few_to_hold_out, one_patient_to_hold_out)


def commands(root, store):
    """Return all commands that need the data, E2 and the E3 trials that weigh it among them."""
    given = ["--data", f"mine={root}", "--store", store, *SMALL]
    e3 = "diffusion.weighting=fingerprint"
    return {
        "plan": ["plan", "paper-small", *given, e3],
        "run": ["run", "paper-small", *given, e3],
        "fingerprint": ["fingerprint", "mine", *given],
        "quick fingerprint": ["fingerprint", "mine", *given, "--quick"],
        "recommend": ["recommend", "mine", *given, "--output", root.with_name("mine.toml")],
    }


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_all_commands_refuse_a_data_set_with_the_same_sentence(fault, tmp_path):
    root, store = tmp_path / "root", tmp_path / "store"
    words = fault(root)
    found = {name: call(*arguments) for name, arguments in commands(root, store).items()}
    assert {name: result.exit_code for name, result in found.items()} == dict.fromkeys(found, 2), found["run"].output
    sentences = {result.output for result in found.values()}
    assert len(sentences) == 1, sentences
    (sentence,) = sentences
    assert words in sentence
    assert sentence.count("\n") == 1
    assert not list(store.rglob("*"))
    assert not root.with_name("mine.toml").exists()
    with pytest.raises(DataError) as error:
        data.load(config("folder", held_out=0.2), root)
    assert f"diffseg: {error.value}\n" == sentence


@pytest.mark.parametrize(
    "fault", [fault for fault in FAULTS if fault not in ONLY_HELD_OUT], ids=lambda fault: fault.__name__
)
def test_data_check_finds_what_other_commands_refuse(fault, tmp_path):
    words = fault(tmp_path / "root").partition(" (and")[0]
    result = call("data", "check", "mine", tmp_path / "root", "data.size=16", "--sheet", tmp_path / "sheet.png")
    assert result.exit_code == (2 if fault in (no_root, no_masks, no_test_images) else 1), result.output
    assert words in result.output or "has no test images that can be read" in result.output
    assert "No problem found" not in result.output


@pytest.mark.parametrize("fault", ONLY_HELD_OUT, ids=lambda fault: fault.__name__)
def test_what_cannot_be_held_out_is_refused_only_where_it_has_to_be(fault, tmp_path):
    fault(tmp_path / "root")
    result = call("plan", "paper-small", "--data", f"mine={tmp_path / 'root'}", "--store", tmp_path / "store", *SMALL)
    assert result.exit_code == 0, result.output


def test_retry_refuses_a_data_set_as_well(tmp_path):
    root, store = tmp_path / "root", tmp_path / "store"
    words = no_masks(root)
    from studies.store.ledger import Ledger

    study = read_study("paper-small", {"mine": str(root)}, {"data.size": 16})
    Ledger(str(store), "paper-small").define(study.definition())
    result = call("retry", "paper-small", "--store", store)
    assert result.exit_code == 2, result.output
    assert words in result.output


def test_a_completed_study_needs_no_data(tmp_path):
    """A plan of it needs none either."""
    from studies.store.ledger import Ledger

    root, store = tmp_path / "root", tmp_path / "store"
    study = read_study("paper-small", {"mine": str(root)}, {"data.size": 16}, experiments=("e2",))
    ledger = Ledger(str(store), "paper-small")
    ledger.define(study.definition())
    for trial in study.trials:
        ledger.write(trial.name, 1, {"trials": [{"study": "paper-small", "status": "complete"}]})
    assert call("plan", "paper-small", "--experiment", "e2", "--store", store, "data.size=16").exit_code == 0
    result = call("run", "paper-small", "--experiment", "e2", "--store", store, "--no-report", "data.size=16")
    assert "not a folder" not in result.output


def test_roots_that_only_other_machines_have_are_left_to_the_trials(tmp_path):
    from studies.planning.datasets import check_datasets

    study = read_study("paper-small", {"mine": str(tmp_path / "nowhere")}, {"data.size": 16})
    check_datasets(study.trials, study.roots, str(tmp_path), elsewhere=True)
    with pytest.raises(DataError, match="not a folder"):
        check_datasets(study.trials, study.roots, str(tmp_path))
    check_datasets(study.trials, {"mine": "s3://bucket/mine"}, str(tmp_path))  # not copied for the check


def test_a_plan_reads_each_header_once_and_none_of_a_cached_data_set(tmp_path, monkeypatch):
    """It decodes no image, reads masks for their foreground, and does not change the cache."""
    folder(tmp_path / "root")
    opened = []
    check = data.Record.check_headers
    monkeypatch.setattr(data.Record, "check_headers", lambda record: opened.append(record.name) or check(record))
    arguments = ["plan", "paper-small", "--data", f"mine={tmp_path / 'root'}", "--store", tmp_path / "store", *SMALL]
    with monkeypatch.context() as patch:
        patch.setattr(data.Record, "read_image", lambda *_: pytest.fail("an image was decoded"))
        assert call(*arguments).exit_code == 0
    assert sorted(opened) == ["test0", "test1", "train0", "train1", "train2"]
    assert not (tmp_path / "store").exists()
    (mine,) = {
        t.config.data for t in read_study("paper-small", {"mine": "x"}, {"data.size": 16, "data.channels": 3}).trials
    }
    data.load(mine, tmp_path / "root", tmp_path / "store" / "cache")
    opened.clear()
    assert cache.is_current(tmp_path / "store" / "cache", mine, tmp_path / "root")
    assert call(*arguments).exit_code == 0
    assert opened == []
    write_image(tmp_path / "root/train/images/train0.png")
    assert call(*arguments).exit_code == 0
    assert len(opened) == 5


@pytest.fixture
def quick(monkeypatch):
    from diffseg.fingerprint import quick as patches

    for name in ("EXAMPLES", "MASKS", "QUERIES", "WINDOWS"):
        monkeypatch.setattr(patches, name, 256)


TINY = [
    "data.size=16", "data.train_images=40", "data.test_images=4", "network.width=32", "network.multipliers=[1,1]",
    "network.blocks=1", "network.attention=[2]", "training.steps=4", "training.batch=4", "diffusion.fingerprint_steps=4",
    "training.precision=float32", "inference.timesteps=6", "inference.timestep_images=4",
]  # fmt: skip
SYNTHETIC = [["synthetic-large"], ["synthetic-many"], ["synthetic-clusters"], ["mine", "data.layout=synthetic"]]


class TestSyntheticDataWithoutARoot:
    @pytest.mark.parametrize("name", SYNTHETIC, ids=lambda name: name[0])
    def test_a_quick_fingerprint_is_measured(self, name, quick, tmp_path):
        result = call("fingerprint", *name, *TINY, "--quick", "--json", "--store", tmp_path)
        assert result.exit_code == 0, result.output
        assert len(json.loads(result.output)["error"]) == 6
        assert "Half is lost at" in call("fingerprint", *name, *TINY, "--quick", "--store", tmp_path).output

    @pytest.mark.parametrize("name", SYNTHETIC, ids=lambda name: name[0])
    def test_a_recommendation_can_be_planned(self, name, quick, tmp_path):
        path = tmp_path / "found.toml"
        result = call("recommend", *name, *TINY, "--store", tmp_path / "store", "--output", path)
        assert result.exit_code == 0, result.output
        assert result.output.splitlines()[-1].endswith(f"diffseg run {path}")
        planned = call("plan", path, "--store", tmp_path / "store", "--json")
        assert planned.exit_code == 0, planned.output
        assert json.loads(planned.output)["missing"] == 1
        (trial,) = read_study(str(path), {}, {}).trials
        kind = name[0].partition("-")[2] or "large"
        assert (trial.config.data.layout, trial.config.data.kind, trial.config.data.size) == ("synthetic", kind, 16)

    def test_the_recommended_file_is_named_after_the_data_set(self, quick, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("DIFFSEG_STORE", str(tmp_path / "store"))
        assert call("recommend", "synthetic-many", *TINY).exit_code == 0
        assert Path("synthetic-many.toml").is_file()

    def test_a_given_root_is_a_folder_of_ones_own(self, tmp_path):
        result = call("fingerprint", "synthetic-large", "--data", "synthetic-large=/nowhere", "--store", tmp_path)
        assert result.exit_code == 2
        assert "/nowhere, which is not a folder" in result.output

    def test_a_fingerprint_is_measured_with_every_option(self, tmp_path, monkeypatch):
        """Its trials run in this process in place of Ray. Afterwards it is shown at once, and recommended from."""
        from studies.engine.request import TrialRequest
        from studies.engine.worker import run_trial

        seen = []

        def run(study, ledger, resources, address=None, quiet=False):
            seen.append((resources.cpus, resources.gpus, resources.workers, resources.labels, address, quiet))
            ledger.define(study.definition())
            for trial in study.trials:
                if trial.name not in ledger.last_attempts():
                    order = TrialRequest(
                        str(tmp_path), study.name, trial.name, 1, trial.config.canonical(), None, 1, 0, None, False
                    )
                    assert run_trial(order) == "complete"
            return True

        monkeypatch.setattr("studies.engine.session.run", run)
        options = ["--cpus", 2, "--gpus", 0, "--workers", 1, "--label", "a=b", "--address", "127.0.0.1:6379"]
        arguments = [
            "fingerprint",
            "synthetic-clusters",
            *TINY,
            "diffusion.fingerprint_seeds=[0,1]",
            "--store",
            tmp_path,
        ]
        result = call(*arguments, *options, "--json")
        assert result.exit_code == 0, result.output
        assert len(json.loads(result.output)["error"]) == 6
        assert seen == [(2, 0, 1, {"a": "b"}, "127.0.0.1:6379", True)]
        shown = call(*arguments)
        assert shown.exit_code == 0, shown.output
        assert shown.output.splitlines()[-1].endswith("report.html")
        found = call("recommend", *arguments[1:], "--output", tmp_path / "found.toml")
        assert "From the fingerprint measured by E3. Run it: diffseg run" in found.output


@pytest.mark.slow
def test_a_synthetic_fingerprint_is_measured_through_ray(tmp_path):
    result = call("fingerprint", "synthetic-large", *TINY, "--store", tmp_path)
    assert result.exit_code == 0, result.output
    assert "Half is lost at" in result.output


def test_a_new_root_of_a_data_set_with_results_is_reported(tmp_path):
    """Otherwise the old results would pass for those of the new images."""
    from studies.store.ledger import Ledger

    for name in ("old", "new"):
        folder(tmp_path / name)
    arguments = ["plan", "paper-small", "--experiment", "e1", "--store", tmp_path / "store", "data.size=16"]
    study = read_study("paper-small", {"mine": str(tmp_path / "old")}, {"data.size": 16}, experiments=("e1",))
    ledger = Ledger(str(tmp_path / "store"), "paper-small")
    ledger.define(study.definition())
    moved = [*arguments, "--data", f"mine={tmp_path / 'new'}"]
    assert "is now at" not in call(*moved).output  # nothing has ended
    row = {
        "study": "paper-small",
        "status": "complete",
        "dataset": "mine",
        "config": study.trials[0].config.canonical(),
    }
    ledger.write(study.trials[0].name, 1, {"trials": [row]})
    assert f"was at {tmp_path / 'old'} and is now at {tmp_path / 'new'}" in call(*moved).output
    assert "is now at" not in call(*arguments, "--data", f"mine={tmp_path / 'old'}").output


@pytest.mark.parametrize(
    ("count", "share", "least", "words"),
    [
        (
            20,
            0.2,
            0,
            r"mine: about 3 of 16 images are held out \(data.held_out=0.2\), .*: data.held_out=0.5 would hold out 8",
        ),
        (20, 0.5, 0, None),
        (
            20,
            0.2,
            30,
            r"mine: about 8 of 16 images are held out, and not a share of 0.2, since data.held_out_least=30 asks",
        ),
        (50, 0.2, 0, r"about 8 of 40 images .*: data.held_out=0.5 would hold out 20"),
        (125, 0.25, 0, r"about 25 of 100 images .*: data.held_out=0.3 would hold out 30"),
        (125, 0.3, 0, None),
        (200, 0.2, 30, None),
    ],
)
def test_a_search_with_few_held_out_images_is_warned_and_told_a_share_that_helps(
    tmp_path, caplog, count, share, least, words
):
    from studies.planning.datasets import check_datasets

    for place in range(count):
        write_image(tmp_path / "root" / "images" / f"{place}.png")
        write_mask(tmp_path / "root" / "masks" / f"{place}.png")
    study = read_study(
        "search", {"mine": str(tmp_path / "root")}, {"data.held_out": share, "data.held_out_least": least}
    )
    check_datasets([*study.starts, *study.starts], study.roots, str(tmp_path))
    warnings = [record.getMessage() for record in caplog.records if "held out" in record.getMessage()]
    assert len(warnings) == (words is not None)
    assert words is None or re.search(words, warnings[0])
