"""Epoch selection in E1, and deep ensembles."""

import pytest
import torch

from diffseg import data, trial
from diffseg.config import Config
from diffseg.errors import ConfigError, DataError, Stopped
from diffseg.training import checkpoints
from diffseg.training.epoch_selection import select_epochs
from diffseg.training.hooks import Hooks


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def e1(tiny, **leaves):
    """Return a configuration with 12 images, 9 to train on and 3 held out, in epochs of 3 steps."""
    return tiny(
        experiment="e1", training__validation=0.25, training__batch=3, training__steps=12, training__ema=0.5, **leaves
    )


def test_the_number_of_epochs_has_the_lowest_validation_loss(tiny, tmp_path):
    config = e1(tiny, training__learning_rate=0.05)  # so large that the loss does not fall at every epoch
    outcome = trial.run(config, None, tmp_path, device="cpu")
    losses = {row["step"]: row["value"] for row in outcome.curves if row["metric"] == "validation_loss"}
    assert sorted(losses) == [3, 6, 9, 12]
    epochs = min(losses, key=losses.get) // 3
    assert outcome.trial["steps"] == 4 * epochs  # an epoch of all 12 images has 4 batches of 3
    assert max(row["step"] for row in outcome.curves if row["metric"] == "loss") == 4 * epochs
    assert max(row["step"] for row in outcome.curves if row["metric"] == "selection_loss") == 12


@pytest.mark.slow
def test_the_second_training_starts_from_scratch_on_all_images(tiny, tmp_path):
    """It equals an ordinary trial of that many steps, bit for bit."""
    config = e1(tiny)
    steps = trial.run(config, None, tmp_path / "selected", device="cpu").trial["steps"]
    plain = tiny(experiment="e1", training__batch=3, training__steps=steps, training__ema=0.5)
    trial.run(plain, None, tmp_path / "plain", device="cpu")
    ends = [checkpoints.load(tmp_path / name, "cpu")["average"] for name in ("selected", "plain")]
    assert equal(*ends)


def test_no_held_out_image_is_trained_on(tiny, tmp_path, monkeypatch):
    from diffseg.training import epoch_selection as selection

    config, seen = e1(tiny), {}
    whole = data.load(config.data, None).train

    def spy(config, split, *rest):
        seen["training"] = set(split.names)
        return original(config, split, *rest)

    def watch(state, split, config):
        seen["validation"] = set(split.names)
        return measured(state, split, config)

    original, measured = selection.train, selection._measure_validation_loss
    monkeypatch.setattr(selection, "train", spy)
    monkeypatch.setattr(selection, "_measure_validation_loss", watch)
    select_epochs(config, whole, tmp_path, Hooks())
    assert len(seen["validation"]) == 3
    assert seen["training"] | seen["validation"] == set(whole.names)
    assert not seen["training"] & seen["validation"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("call", [5, 12, 15])  # within the selection, at its end, within the training after it
def test_it_resumes_within_and_between_the_two_trainings(call, tiny, tmp_path):
    config, calls = e1(tiny), iter(range(1, 1000))
    whole = trial.run(config, None, tmp_path / "whole", device="cpu")
    with pytest.raises(Stopped):
        trial.run(config, None, tmp_path / "parts", device="cpu", hooks=Hooks(should_stop=lambda: next(calls) >= call))
    parts = trial.run(config, None, tmp_path / "parts", device="cpu")
    ends = [checkpoints.load(tmp_path / name, "cpu")["average"] for name in ("whole", "parts")]
    assert equal(*ends)
    assert parts.images == whole.images
    assert [row["value"] for row in parts.curves if row["metric"] == "validation_loss"] == [
        row["value"] for row in whole.curves if row["metric"] == "validation_loss"
    ]


@pytest.mark.parametrize(
    ("leaves", "words"),
    [
        ({"training__validation": 0.01}, "holds out 0"),
        ({"training__validation": 0.25, "training__steps": 1}, "one epoch of 9 images has 3"),
    ],
)
def test_an_impossible_selection_is_refused_in_a_sentence(leaves, words, tiny, tmp_path):
    config = tiny(experiment="e1", training__batch=3, **leaves)
    with pytest.raises(DataError, match=words):
        trial.run(config, None, tmp_path, device="cpu")


class TestDeepEnsemble:
    def test_its_prediction_is_the_mean_of_its_members(self, tiny, tmp_path):
        config = tiny(experiment="e1", inference__seeds=[3, 5], inference__ensemble=1)
        members = config.members()
        assert [member.seed for member in members] == [3, 5]
        folder_of = lambda member: tmp_path / str(member.seed)  # noqa: E731
        alone = [trial.run(member, None, folder_of(member), device="cpu") for member in members]
        together = trial.run(config, None, tmp_path / "together", device="cpu", folder_of=folder_of)
        assert together.trial["parameters"] == 2 * alone[0].trial["parameters"]
        assert together.trial["train_seconds"] == 0  # the members were trained before
        assert together.trial["brier"] <= sum(outcome.trial["brier"] for outcome in alone) / 2  # by Jensen
        again = trial.run(config, None, tmp_path / "again", device="cpu")
        assert again.images == together.images
        assert again.trial["train_seconds"] > 0

    def test_it_needs_two_seeds_and_exists_in_e1_only(self, tiny):
        with pytest.raises(ConfigError, match=r"inference.seeds is \[4\]"):
            tiny(experiment="e1", inference__seeds=[4])
        with pytest.raises(ConfigError, match=r"inference.seeds is \[4, 4\]"):
            tiny(experiment="e1", inference__seeds=[4, 4])
        assert tiny(experiment="e2", inference__seeds=[4, 5]).inference.seeds == ()
        assert tiny(experiment="e1", seed=9, inference__seeds=[4, 5]) == tiny(experiment="e1", inference__seeds=[4, 5])


def test_one_training_image_and_empty_masks_are_refused(tmp_path):
    import numpy as np
    from PIL import Image

    def write(split, names, value):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True, exist_ok=True)
        for name in names:
            Image.fromarray(np.full((16, 16, 3), 99, np.uint8)).save(tmp_path / split / "images" / f"{name}.png")
            mask = np.zeros((16, 16), np.uint8)
            mask[4:8, 4:8] = value
            Image.fromarray(mask).save(tmp_path / split / "masks" / f"{name}.png")

    config = Config().with_leaves({"data.name": "mine", "data.layout": "folder", "data.size": 16}).data
    write("train", ["a"], 255)
    write("test", ["b"], 255)
    with pytest.raises(DataError, match="a single training image, a: at least two"):
        data.load(config, tmp_path)
    write("train", ["a", "c"], 0)
    with pytest.raises(DataError, match=r"all 2 training masks of .* are empty"):
        data.load(config, tmp_path)
