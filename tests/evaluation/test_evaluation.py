"""Learning curves of the segmentation, and images that are held out of training; searches compare trials by both."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from diffseg import data, trial
from diffseg.errors import DataError, Stopped
from diffseg.training.hooks import Hooks

METRICS = {"iou", "dice", "brier", "nll", "ece"}


def evaluated(tiny, **leaves):
    return tiny(training__evaluations=[0.5, 1.0], inference__evaluation_images=2, **leaves)


def points(outcome):
    return {(row["step"], row["metric"]): row["value"] for row in outcome.curves if row["metric"] in METRICS}


@pytest.mark.parametrize("experiment", ["e1", "e2"])
def test_segmentations_are_evaluated_at_shares_of_the_steps(experiment, tiny, tmp_path):
    config = evaluated(tiny, experiment=experiment)
    outcome = trial.run(config, None, tmp_path, device="cpu")
    found = points(outcome)
    assert set(found) == {(step, metric) for step in (3, 6) for metric in METRICS}
    first = {row["image"]: row["value"] for row in outcome.images if row["metric"] == "iou"}
    assert found[6, "iou"] == pytest.approx(sum(list(first.values())[:2]) / 2)  # as at the end, for two images
    assert all("t" in row for row in outcome.timesteps)


def test_evaluations_do_not_change_training_and_survive_a_stop(tiny, tmp_path):
    plain = trial.run(tiny(experiment="e2"), None, tmp_path / "plain", device="cpu")
    config, calls = evaluated(tiny, experiment="e2"), iter(range(1000))
    whole = trial.run(config, None, tmp_path / "whole", device="cpu")
    with pytest.raises(Stopped):
        trial.run(config, None, tmp_path / "parts", device="cpu", hooks=Hooks(should_stop=lambda: next(calls) > 6))
    parts = trial.run(config, None, tmp_path / "parts", device="cpu")
    assert plain.images == whole.images == parts.images
    assert points(whole) == points(parts)


def test_a_pruned_trial_keeps_its_evaluations(tiny, tmp_path):
    reported = []

    def end(step, rows):
        reported.append((step, METRICS & {row["metric"] for row in rows if "image" not in row}))
        for metric in ("iou", "dice"):
            (mean,) = (row["value"] for row in rows if row["metric"] == metric and "image" not in row)
            own = {row["image"]: row["value"] for row in rows if row["metric"] == metric and "image" in row}
            assert len(own) == 2
            assert np.mean([*own.values()]) == pytest.approx(mean)
        return "others are better" if step == 3 else None

    outcome = trial.run(evaluated(tiny, experiment="e2"), None, tmp_path, device="cpu", hooks=Hooks(on_evaluation=end))
    assert outcome.pruned == "others are better"
    assert reported == [(3, METRICS)]
    assert outcome.trial["steps"] == 3
    assert "iou" not in outcome.trial
    assert outcome.images == []
    assert {step for step, _ in points(outcome)} == {3}


def test_unused_settings_do_not_change_a_trial(tiny):
    assert evaluated(tiny, experiment="e3") == tiny(experiment="e3")
    assert tiny(experiment="e2", inference__evaluation_images=3) == tiny(experiment="e2")


def test_held_out_images_are_not_trained_on_and_do_not_depend_on_the_seed(tiny):
    whole, parts = (data.load(tiny(data__held_out=share).data, None) for share in (0.0, 0.25))
    assert len(parts.test.names) == 3
    assert set(parts.test.names) | set(parts.train.names) == set(whole.train.names)
    assert not set(parts.test.names) & set(parts.train.names)
    where = [whole.train.names.index(name) for name in parts.test.names]
    assert all(torch.equal(image, whole.train.images[k]) for k, image in zip(where, parts.test.images, strict=True))
    assert parts.digest == whole.digest
    assert data.load(tiny(data__held_out=0.25, seed=7).data, None).test.names == parts.test.names
    with pytest.raises(DataError, match=r"data.held_out=0.01 of the 12 training images .* holds out 0:"):
        data.load(tiny(data__held_out=0.01).data, None)


def patients_at(root, masks):
    """A data set of four patients of two slices, whose images are noise: two train, two are tested."""
    draw = np.random.default_rng(0)
    lines = ["name,split,group"]
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for k in range(8):
        mask = np.zeros((16, 16), np.uint8)
        if masks != "empty" or k < 6:
            mask[4 : 8 + k // 4, 4:10] = 255
        Image.fromarray(draw.integers(0, 255, (16, 16), np.uint8)).save(root / "images" / f"{k}.png")
        Image.fromarray(mask).save(root / "masks" / f"{k}.png")
        lines.append(f"{k},{'train' if k < 4 else 'test'},patient {k // 2}")
    (root / "split.csv").write_text("\n".join(lines))
    return root


@pytest.mark.parametrize("masks", ["full", "empty"])
def test_rows_of_images_have_their_patient_and_means_count_left_out_images(tiny, tmp_path, masks):
    root = patients_at(tmp_path / "mine", masks)
    config = tiny(
        experiment="e1", data__layout="folder", data__name="mine", data__train_images=None, data__test_images=None
    )
    outcome = trial.run(config, root, tmp_path / "trial", device="cpu")
    for rows in (outcome.images, outcome.calibration):
        assert {(row["image"], row["group"]) for row in rows} == {(f"{k}", f"patient {k // 2}") for k in range(4, 8)}
    assert sum(row["count"] for row in outcome.calibration) == 4 * 16 * 16
    gaps = {}
    for row in outcome.calibration:
        gaps[row["bin"]] = gaps.get(row["bin"], 0) + row["count"] * (row["confidence"] - row["accuracy"])
    assert sum(map(abs, gaps.values())) / (4 * 16 * 16) == pytest.approx(outcome.trial["ece"], abs=1e-12)
    left_out = json.loads(outcome.trial["left_out"])
    assert left_out == {} if masks == "full" else left_out["ece_boundary"] == 2
    nan = [row["image"] for row in outcome.images if row["metric"] == "ece_boundary" and math.isnan(row["value"])]
    assert nan == ([] if masks == "full" else ["6", "7"])
