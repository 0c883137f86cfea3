"""How to add a layout: a worked example that is found, checked, cached, trained on and evaluated like the others."""

from typing import get_args

import numpy as np
import pytest
import torch
from example_layout import Archive, find
from test_new_members import allow  # noqa: F401  a fixture

from diffseg import data, trial
from diffseg.config import Data
from diffseg.data.check import check
from diffseg.data.layouts import LAYOUTS, Layout
from diffseg.errors import DataError

RNG = np.random.default_rng(0)


def test_the_setting_has_the_choices_of_the_registry():
    assert set(get_args(Data.model_fields["layout"].annotation)) == {*LAYOUTS, "synthetic"}


@pytest.fixture
def archives(tmp_path, monkeypatch, allow):  # noqa: F811
    """A data set in the new layout, after the layout's entry and the choice of its name have been added."""
    allow(Data, "layout", "npz")
    monkeypatch.setitem(LAYOUTS, "npz", Layout(find))
    for split, count in (("train", 4), ("test", 2)):
        (tmp_path / "root" / split).mkdir(parents=True)
        for k in range(count):
            image = RNG.integers(0, 255, (20, 24, 3), dtype=np.uint8)
            mask = np.zeros((20, 24), np.uint8)
            mask[4:12, 6:18] = 1
            np.savez(tmp_path / "root" / split / f"{split}{k}.npz", image=image, mask=mask)
    return tmp_path / "root"


def test_a_new_layout_is_refused_before_it_is_added():
    with pytest.raises(ValueError, match="npz"):
        Data(layout="npz")


def test_a_new_layout_is_decoded_checked_and_cached(archives, tmp_path):
    config = Data(name="mine", layout="npz", size=16)
    fresh = data.load(config, archives)
    assert fresh.train.names == ("train0", "train1", "train2", "train3")
    assert check(config, archives).problems == ()
    for _ in range(2):
        cached = data.load(config, archives, tmp_path / "cache")
        assert cached.digest == fresh.digest
        assert cached.test.record(1) == Archive(
            "test1", "test", archives / "test/test1.npz", (archives / "test/test1.npz",)
        )
    path = archives / "test" / "test1.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"test1.npz cannot be decoded .*: it is truncated or damaged, copy it anew"):
        data.load(config, archives, tmp_path / "cache")


def test_a_new_layout_is_trained_on_and_evaluated(archives, tiny, tmp_path):
    leaves = {"data__train_images": None, "data__test_images": None, "inference__resolution": "original"}
    config = tiny(experiment="e1", data__layout="npz", **leaves)
    outcome = trial.run(config, archives, tmp_path / "work", device="cpu")
    assert {row["image"] for row in outcome.images} == {"test0", "test1"}
    assert 0 <= outcome.trial["iou"] <= 1
    assert torch.tensor([row["value"] for row in outcome.images if row["metric"] == "iou"]).isfinite().all()
