"""Model cards against ledgers whose numbers are known: results, limits, escaping, and what cannot be described."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import test_class_reports
import test_measurements
from several import with_classes, write_study
from test_measurements import GROUPS, PATIENTS, SEEDS, iou_of, pooled_ece
from test_report import attempt, configs

from analysis import card, card_facts, markdown
from analysis.card_subject import Subject, load_subject
from analysis.checklists import BY_AUTHOR, load_checklists
from analysis.statistics import estimate
from analysis.verdicts import signed
from diffseg.config import Config
from diffseg.config.data import Data
from diffseg.errors import UserError
from studies.definition.study import Study, stored_study
from studies.definition.trial import Trial, trial_name
from studies.store.ledger import Ledger

HOSTILE = "a | b\n## `x` <script>alert('x')</script> *[y](http://z)*\u202e"


def subject_of(ledger: Ledger, trial: str) -> Subject:
    return load_subject(stored_study(ledger.study, ledger.definition()), ledger, trial)


def render(ledger: Ledger, trial: str) -> str:
    return card.render_card(subject_of(ledger, trial))


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of all rows of tables."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def values(text: str) -> dict[str, str]:
    """Return the second cell of each row by the first."""
    return {row[0]: row[1] for row in rows(text)}


def shown(found, form: str = ".4f") -> list[str]:
    """Return a mean and its interval as a card shows them."""
    return [signed(found.mean, form), f"{signed(found.low, form)} to {signed(found.high, form)}"]


def change(**columns):
    """Return an edit that changes columns of the trials' rows."""

    def edit(experiment, seed, tables):
        tables["trials"][0] |= columns
        return tables

    return edit


def one_trial(path: Path, leaves: dict, status: str = "complete", **columns) -> tuple[Ledger, str]:
    """Write a study of one trial, and return its ledger and the trial's name."""
    config = Config().with_leaves({"data.name": "mine", "data.layout": "folder"} | leaves).resolved()
    trial, ledger = Trial(trial_name(config), config), Ledger(str(path), "study")
    ledger.define(Study("study", (trial,), {}).definition())
    if status != "waiting":
        tables = attempt(config, trial.name, "failed" if status == "failed" else "complete")
        tables["trials"][0] |= {"status": status} | columns
        ledger.write(trial.name, 1, tables)
    return ledger, trial.name


@pytest.fixture(scope="module")
def patients(tmp_path_factory) -> Ledger:
    """E1 and E2 of three seeds on slices of eight patients."""
    return test_measurements.ledger_of(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def text(patients) -> str:
    return render(patients, "e2-slices-ensemdiff-s1")


class TestResults:
    def test_of_one_seed_and_of_all_are_estimated_by_patients(self, text):
        (found,) = [row for row in rows(section(text, "Results")) if row[1] == "IoU" and row[0] == "all"]
        size = f"{len(GROUPS)} images of {PATIENTS} patients or volumes"
        every = np.stack([iou_of("e2", seed) for seed in range(SEEDS)])
        assert found[2:5] == [*shown(estimate(iou_of("e2", 1)[None], GROUPS)), size]
        assert found[5:] == [*shown(estimate(every, GROUPS)), size]
        assert "take patients or volumes as independent" in section(text, "Results")
        assert "(0, 1, 2)" in section(text, "Results")

    def test_calibration_is_the_pooled_one(self, text):
        tables = rows(section(text, "Calibration"))
        measured = test_measurements.calibration_of("e2", 1)
        (ece,) = [row for row in tables if row[1] == "ECE"]
        assert ece[2] == f"{pooled_ece(measured):.4f}"
        assert ece[4] == f"{len(GROUPS)} images of {PATIENTS} patients or volumes"
        bins = [row for row in tables if " to " in row[1]]
        assert len(bins) == 9
        own = [row for row in measured if row["bin"] == 4]
        pixels = sum(row["count"] for row in own)
        accuracy = sum(row["count"] * row["accuracy"] for row in own) / pixels
        assert bins[3] == ["all", "0.4 to 0.5", f"{pixels:,}", "0.4500", f"{accuracy:.4f}"]

    def test_without_patients_the_units_are_images(self, tmp_path):
        ledger = test_measurements.ledger_of(tmp_path, test_measurements.without("group"), seeds=1)
        text = render(ledger, "e1-")
        (found,) = [row for row in rows(section(text, "Results")) if row[1] == "IoU"]
        assert found[2:] == [
            *shown(estimate(iou_of("e1", 0)[None])),
            f"{len(GROUPS)} images",
        ]  # no columns of all seeds
        assert "take images as independent" in section(text, "Results")
        assert values(section(text, "Data"))["patients or volumes of test images"] == "the data name none"
        assert "The data name no patients or volumes." in section(text, "Limits")
        assert "has one seed" in section(text, "Limits")

    def test_each_of_several_classes_has_rows(self, tmp_path):
        chosen = [with_classes(config) for config in configs(("e1", "e2"), ("x0",)) if config.data.name == "big"]
        ledger = write_study(tmp_path, chosen, test_class_reports.measured)
        text = render(ledger, "e2-003")
        found = {(row[0], row[1]): row[2] for row in rows(section(text, "Results")) if len(row) == 8}
        counts = test_class_reports.pixels_of(chosen[3])
        for number, name in enumerate(("organ", "lesion")):
            dice = test_class_reports.dice_of(counts)[number].mean()
            assert found[name, "Dice by patient or volume"] == f"{dice:.4f}"
        assert {row[0] for row in rows(section(text, "Calibration"))} >= {"organ", "lesion"}
        assert values(section(text, "Data"))["classes"] == "organ: 1; lesion: 2 (exclusive)"
        assert values(section(text, "What it is"))["output"].endswith("a pixel belongs to the most probable one")

    def test_metrics_of_several_raters_are_shown(self, tmp_path):
        def edit(experiment, seed, tables):
            ged = [row | {"metric": "ged", "value": 0.25} for row in tables["images"]]
            return change(samples=5.0, ged=0.25)(experiment, seed, tables | {"images": tables["images"] + ged})

        text = render(test_measurements.ledger_of(tmp_path, edit, seeds=1), "e2-")
        assert ["all", "GED", "0.2500", "0.2500 to 0.2500"] in [row[:4] for row in rows(section(text, "Results"))]
        assert values(section(text, "Data"))["raters of an image"] == "several"


class TestLimits:
    def test_of_a_tested_configuration_among_others(self, text):
        limits = section(text, "Limits")
        assert "2 configurations of this study were scored on these test images" in limits
        assert f"The study has {SEEDS} seeds of this configuration (0, 1, 2)." in limits
        assert "There was no test on external data." in limits
        assert "The data name no patients" not in limits

    def test_of_a_trial_on_held_out_images(self, tmp_path):
        ledger, trial = one_trial(tmp_path, {"data.held_out": 0.2, "data.fold": 1}, role="search", scored_on="held-out")
        text = render(ledger, trial)
        assert "The metrics are of training images that were held out." in section(text, "Limits")
        data = values(section(text, "Data"))
        assert data["held out"] == "0.2 of the training images, part 1"
        assert data["held-out images, which were scored"] == "4"
        assert "was kept out of training" in data["split"]
        assert "Of held-out images." in section(text, "Results")

    def test_name_failed_seeds_undefined_metrics_and_missing_weights(self, tmp_path):
        ledger = test_measurements.ledger_of(tmp_path, change(left_out='{"nsd": 3, "iou": 0}'), seeds=2)
        (e2,) = [row["trial"] for row in ledger.last_rows() if row["experiment"] == "e2" and row["seed"] == 1]
        config = next(trial.config for trial in stored_study("study", ledger.definition()).trials if trial.name == e2)
        ledger.write(e2, 2, attempt(config, e2, "failed", "the loss is nan"))
        limits = section(render(ledger, "e2-slices-ensemdiff-s0"), "Limits")
        assert "1 more of its trials failed and is in no mean." in limits
        assert "has one seed" in limits
        assert "Undefined and left out of the mean: nsd of 3 images." in limits
        assert "holds no weights" in limits

    def test_of_synthetic_images(self, tmp_path):
        ledger, trial = one_trial(tmp_path, {"data.layout": "synthetic"})
        assert "The images are synthetic." in section(render(ledger, trial), "Limits")


class TestIdentity:
    def test_the_command_is_one_that_the_shell_takes(self, tmp_path):
        store = tmp_path / "it's ``` a store"
        ledger, trial = one_trial(store, {})
        text = section(render(ledger, trial), "What it is")
        (block,) = re.findall(r"^````sh\n(.*?)\n````$", text, re.DOTALL | re.MULTILINE)
        expected = [
            "diffseg",
            "predict",
            "study",
            trial,
            "my-images/",
            "--store",
            str(store),
            "--output",
            "predictions",
        ]
        assert shlex.split(block) == expected

    def test_weights_of_a_deep_ensemble_are_those_of_its_members(self, tmp_path):
        ledger, trial = one_trial(tmp_path, {"experiment": "e1", "inference.seeds": [0, 1]})
        assert not subject_of(ledger, trial).has_network
        members = [trial_name(member) for member in subject_of(ledger, trial).config.members()]
        for name in (f"work/{members[0]}/step-1.pt", f"work/{members[1]}/log.txt"):
            ledger.folder.write(name, b"")
        assert not subject_of(ledger, trial).has_network
        ledger.folder.write(f"work/{members[1]}/step-1.pt", b"")
        assert subject_of(ledger, trial).has_network
        assert "has one deep ensemble" in section(render(ledger, trial), "Limits")

    def test_settings_that_differ_and_all_settings(self, tmp_path):
        ledger, trial = one_trial(tmp_path, {"training.steps": 77, "diffusion.target": "x0"})
        text = section(render(ledger, trial), "Configuration")
        differing, every = (rows(part) for part in text.split("<details>"))
        assert ["training.steps", "77", "60000"] in differing
        assert "training.batch" not in {row[0] for row in differing}
        config = subject_of(ledger, trial).config
        assert [row[0] for row in every[2:]] == list(config.leaves())

    def test_provenance_is_that_of_the_ledger(self, tmp_path):
        columns = {"device": "NVIDIA H100", "train_seconds": 7200.0, "evaluate_seconds": 5.25, "dirty": True}
        ledger, trial = one_trial(tmp_path, {}, **columns, versions='{"torch": "2.11"}', network_of="e2-other")
        text = render(ledger, trial)
        found = values(section(text, "Versions and hardware"))
        assert found["software"] == "torch 2.11"
        assert found["commit"] == "0123456789abcdef, with changes that were not committed"
        assert (found["device"], found["training took"], found["evaluation took"]) == (
            "NVIDIA H100",
            "7,200 s (2.0 h)",
            "5.2 s",
        )
        assert values(section(text, "Configuration"))["training"] == "reused from e2-other"

    def test_the_range_of_pixels_is_shown(self, tmp_path):
        scaling = {"low": [0.0, 5.0], "high": [255.0, 99.5], "bits": 16}
        ledger, trial = one_trial(tmp_path, {"data.normalise": "standard"}, scaling=json.dumps(scaling))
        found = values(section(render(ledger, trial), "What it is"))["preprocessing"]
        assert found.startswith("each channel has mean 0 and deviation 1 over the training images")
        assert "from 0 to 255, 5 to 99.5 (16 bits" in found

    @pytest.mark.parametrize("scaling", [None, "{}", '{"low": 1, "high": 2}'])
    def test_a_scaling_that_says_nothing_is_left_out(self, tmp_path, scaling):
        ledger, trial = one_trial(tmp_path, {}, scaling=scaling)
        assert "values become" not in render(ledger, trial)


class TestEscaping:
    def test_text_of_files_starts_no_markup(self, tmp_path):
        columns = {"device": HOSTILE, "git_commit": HOSTILE, "network_of": HOSTILE, "data_digest": HOSTILE}
        ledger, trial = one_trial(
            tmp_path, {"data.foreground": ["#ff0000"]}, **columns, versions=json.dumps({HOSTILE: HOSTILE})
        )
        plain, _ = one_trial(tmp_path / "plain", {"data.foreground": ["#ff0000"]})
        text = render(ledger, trial)
        assert "<script" not in text
        assert not re.search(r"(?<!\\)\]\(http", text)
        assert "\u202e" not in text
        headings = [line for line in text.splitlines() if line.startswith("#")]
        assert headings == [line for line in render(plain, trial).splitlines() if line.startswith("#")]
        assert all(len(row) == 2 for row in rows(section(text, "Versions and hardware")))
        assert values(section(text, "Versions and hardware"))["device"] == markdown.escape(HOSTILE)

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("a|b", r"a\|b"),
            ("a\nb\t c", "a b c"),
            ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
            (r"\|", r"\\\|"),
            ("`x` *y* ~z~ [u](v)", r"\`x\` \*y\* \~z\~ \[u\](v)"),
            ("learning_rate", "learning_rate"),
            ("_x_", r"\_x\_"),
            ("http://x www.y", r"http\://x www\.y"),
            ("a\x00b", r"a\\u0000b"),
            (markdown.Markup("[a](#a)"), "[a](#a)"),
        ],
    )
    def test_of_one_value(self, value, expected):
        assert markdown.escape(value) == expected


class TestChecklists:
    def test_have_all_items_in_order(self):
        claim, tripod = load_checklists()
        assert [item.number for item in claim.items] == [str(number) for number in range(1, 45)]
        assert len(tripod.items) == 52
        mains = dict.fromkeys(int(re.match(r"\d+", item.number)[0]) for item in tripod.items)
        assert list(mains) == list(range(1, 28))
        parts = {3: 3, 5: 2, 6: 3, 8: 3, 9: 3, 12: 7, 18: 6, 20: 3, 23: 2, 27: 3}
        expected = [
            f"{main}{letter}"
            for main in range(1, 28)
            for letter in ("abcdefg"[: parts[main]] if main in parts else [""])
        ]
        assert [item.number for item in tripod.items] == expected

    def test_refer_to_facts_and_sections_that_cards_have(self, patients, text):
        facts = card_facts.collect_facts(subject_of(patients, "e2-slices-ensemdiff-s1"))
        used = {item.fact for checklist in load_checklists() for item in checklist.items if item.fact}
        assert used <= set(facts)
        anchors = {heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.*)$", text, re.MULTILINE)}
        assert set(re.findall(r"\]\(#(.*?)\)", text)) <= anchors

    def test_are_filled_or_left_to_the_author(self, text):
        found = {row[0]: row[3] for row in rows(section(text, "Checklists").split("### TRIPOD+AI")[0])}
        assert found["44"] == BY_AUTHOR
        assert found["37"] == "see [Results](#results)"
        assert found["32"] == f"10 training images, {len(GROUPS)} test images; see [Results](#results)"
        assert found["7"].endswith(f"{BY_AUTHOR}: where the data come from")
        assert "Of 44 items this card answers" in text


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            ("failed", "is failed, and a card describes a complete one: `diffseg retry study` runs it again"),
            ("pruned", "is pruned, .*: its search ended it early"),
            ("waiting", "is waiting, .*: `diffseg run study` completes it"),
        ],
    )
    def test_of_trials_that_are_not_complete(self, tmp_path, status, expected):
        ledger, trial = one_trial(tmp_path, {}, status)
        with pytest.raises(UserError, match=expected):
            subject_of(ledger, trial)

    @pytest.mark.parametrize("experiment", ["e3", "e4"])
    def test_of_experiments_that_segment_nothing(self, tmp_path, experiment):
        ledger, trial = one_trial(tmp_path, {"experiment": experiment})
        with pytest.raises(UserError, match=f"is of {experiment.upper()}, which segments nothing"):
            subject_of(ledger, trial)

    def test_of_a_damaged_file(self, tmp_path):
        ledger, trial = one_trial(tmp_path, {}, versions="{")
        with pytest.raises(UserError, match="is damaged: `diffseg run study` repeats the trial"):
            subject_of(ledger, trial)

    def test_of_a_card_that_exists(self, patients, tmp_path):
        path = tmp_path / "new" / "card.md"
        subject = subject_of(patients, "e1-slices-ensemdiff-s0")
        assert card.write_card(subject, path) == path
        path.write_text("completed by its author")
        with pytest.raises(UserError, match=r"card\.md exists: remove it, or give another file"):
            card.write_card(subject, path)
        assert path.read_text() == "completed by its author"

    def test_of_places_that_cannot_be_written(self, patients, tmp_path):
        (tmp_path / "file").write_text("")
        subject = subject_of(patients, "e1-slices-ensemdiff-s0")
        for place in (tmp_path / "file" / "card.md", tmp_path / f"{'x' * 300}.md"):
            with pytest.raises(UserError, match="the card cannot be written to"):
                card.write_card(subject, place)
        assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("leaves", "expected"),
    [
        ({}, "the foreground: 255 or 1"),
        ({"foreground": ">=128"}, "the foreground: >=128"),
        ({"classes": {"a": [1], "b": [1, 2]}, "regions": True}, "a: 1; b: 1, 2 (may overlap)"),
        ({"ignore": [255], "foreground": [1]}, "the foreground: [1]; ignored values: 255"),
    ],
)
def test_classes_in_words(leaves, expected):
    assert expected in card_facts.describe_classes(Data(**leaves))


def test_columns_that_an_earlier_version_did_not_record(tmp_path):
    ledger, trial = one_trial(tmp_path, {}, configuration=None, role=None, scored_on=None, data_digest=None)
    text = render(ledger, trial)
    assert values(section(text, "Data"))["digest"] == "not recorded"
    assert "has one seed" in section(text, "Limits")


def test_a_card_needs_neither_torch_nor_ray(patients, tmp_path):
    arguments = [
        "card",
        "study",
        "e1-slices-ensemdiff-s0",
        "--store",
        patients.store,
        "--output",
        str(tmp_path / "a.md"),
    ]
    code = f"""
import sys
from studies.commands.program import main
try:
    main({arguments!r})
except SystemExit as end:
    assert not end.code, end.code
assert not {{"torch", "ray"}} & set(sys.modules)
"""
    root = Path(__file__).parent.parent.parent
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "a.md").read_text().startswith("# Model card: e1-slices-ensemdiff-s0")


def test_a_store_behind_a_uri(patients, tmp_path, monkeypatch):
    """Its default place is the current folder, as that of the report."""
    from click.testing import CliRunner

    from studies.commands.program import main
    from studies.store.folder import Folder

    monkeypatch.chdir(tmp_path)
    words = ["card", "study", "e1-slices-ensemdiff-s0", "--store", f"file://{patients.store}"]
    monkeypatch.setattr(Folder, "local", None)
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    (written,) = Path("study-cards").iterdir()
    assert f"--store file://{patients.store}" in written.read_text()
