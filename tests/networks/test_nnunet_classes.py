"""nnU-Net on several classes: dataset.json, the masks that it reads, its heads, and its predictions."""

import json

import numpy as np
import pytest
import torch
from conftest import split_of
from hypothesis import given
from hypothesis import strategies as st
from label_kinds import KINDS, draw_coloured, draw_numbers
from PIL import Image

from diffseg.config import Config
from diffseg.data.dataset import Dataset
from diffseg.errors import UserError
from diffseg.labels.classes import IGNORED, Classes
from diffseg.labels.labels import Labels
from diffseg.networks.nnunet.dataset import count_heads, describe_labels, merge_raters, write_raw
from diffseg.networks.nnunet.network import NNUNetImplementation
from diffseg.networks.nnunet.plan import plan_network
from diffseg.networks.protocol import RunContext
from diffseg.training.hooks import Hooks
from diffseg.training.parallel import SINGLE_PROCESS

IGNORE = {"data.ignore": 77}


def classes_of(kind, **leaves):
    return Classes.of(Config().with_leaves(KINDS[kind] | leaves).data)


DESCRIPTIONS = {
    "binary": {"labels": {"background": 0, "foreground": 1}},
    "one": {"labels": {"background": 0, "lesion": 1}},
    "two": {"labels": {"background": 0, "left": 1, "right": 2}},
    "regions": {
        "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3},
        "regions_class_order": [1, 2, 3],
    },
    "overlapping": {"labels": {"background": 0, "a": [1, 2], "b": [2, 3]}, "regions_class_order": [1, 3]},
}


@pytest.mark.parametrize("kind", DESCRIPTIONS)
def test_dataset_json_names_the_classes_and_the_highest_label_is_ignored(kind):
    assert describe_labels(classes_of(kind)) == DESCRIPTIONS[kind]
    labels = DESCRIPTIONS[kind]["labels"]
    highest = max(number for own in labels.values() for number in (own if isinstance(own, list) else [own]))
    found = describe_labels(classes_of(kind, **IGNORE))
    assert found["labels"] == labels | {"ignore": highest + 1}
    assert list(found["labels"])[-1] == "ignore"


def test_a_class_may_be_called_ignore():
    classes = Classes.of(Config().with_leaves({"data.classes": {"ignore": 1, "organ": 2}} | IGNORE).data)
    assert describe_labels(classes)["labels"] == {"background": 0, "class: ignore": 1, "organ": 2, "ignore": 3}


@pytest.mark.parametrize("ignore", [{}, IGNORE])
@pytest.mark.parametrize("kind", KINDS)
def test_nnunetv2_accepts_the_description_and_has_as_many_heads(kind, ignore):
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    classes = classes_of(kind, **ignore)
    described = describe_labels(classes)
    manager = LabelManager(described["labels"], described.get("regions_class_order"))
    assert manager.num_segmentation_heads == count_heads(classes)
    assert manager.has_ignore_label == bool(ignore)
    assert manager.has_regions == (kind in ("regions", "overlapping"))
    network, _ = plan_network(32, 12, heads=count_heads(classes))
    assert network(torch.empty(1, 3, 32, 32, device="meta")).shape[1] == count_heads(classes)


def test_regions_that_share_nothing_are_exclusive_to_nnunet():
    classes = Classes.of(Config().with_leaves({"data.classes": {"a": 1, "b": 2}, "data.regions": True}).data)
    assert count_heads(classes) == 3


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 500), raters=st.integers(1, 5), ignore=st.booleans())
def test_the_label_is_that_of_more_than_half_of_the_raters(kind, seed, raters, ignore):
    """In regions it has the classes that agree best with the raters' shares."""
    config = Config().with_leaves(KINDS[kind] | (IGNORE if ignore else {}))
    labels = Labels.of(config)
    masks = draw_numbers(config, seed, count=raters, size=8)[:, 0].to(torch.uint8)
    found, unknown = merge_raters(masks, labels.classes), 1 + max(n for own in labels.classes.numbers for n in own)
    assert found.dtype == torch.uint8
    counted = masks != IGNORED
    assert torch.equal(found == unknown, ~counted.any(0))
    shares = (labels.class_masks(masks[:, None])[:, 0] & counted[:, None]).float().sum(0) / counted.sum(0).clamp(min=1)
    own = labels.class_masks(found.where(found != unknown, 0)[None])[0].float()
    known = counted.any(0)
    if labels.classes.exclusive:
        assert torch.equal(own.bool() & known, (shares > 0.5) & known)
    for number in range(unknown):
        other = labels.class_masks(torch.full_like(found, number)[None])[0].float()
        assert (((own - shares).abs().sum(0) <= (other - shares).abs().sum(0) + 1e-5) | ~known).all()


def test_masks_are_written_by_their_labels(tmp_path):
    config = Config().with_leaves(KINDS["regions"] | IGNORE)
    numbers = draw_numbers(config, count=1).to(torch.uint8)[0]
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    write_raw(split_of([image], [numbers]), tmp_path, Classes.of(config.data))
    written = np.array(Image.open(tmp_path / "labelsTr/case000000.png"))
    assert np.array_equal(written, np.where(numbers[0] == IGNORED, 4, numbers[0]))
    assert json.loads((tmp_path / "dataset.json").read_text())["regions_class_order"] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "ignore"), [("two", {}), ("two", IGNORE), ("regions", {}), ("regions", IGNORE)])
def test_it_learns_classes_and_loads_again(kind, ignore, tmp_path):
    leaves = {"experiment": "e1", "network": "nnunet", "network.epochs": 2, "network.iterations": 20, "data.size": 32}
    config = Config().with_leaves(leaves | KINDS[kind] | ignore).resolved()
    training, test = draw_coloured(config, 24, seed=0), draw_coloured(config, 3, seed=1)
    device, labels = torch.device("cpu"), Labels.of(config)
    dataset = Dataset("drawn", "", training, test)
    context = RunContext(dataset, training, test, device, Hooks(), SINGLE_PROCESS)
    trained = NNUNetImplementation(config.network).fit(config, tmp_path, context)
    found = list(trained.predictions)
    assert trained.parameters == sum(
        p.numel() for p in config.network.implementation().plan(config.data)[0].parameters()
    )
    for index, prediction in enumerate(found):
        assert prediction.mean.shape == (labels.classes.count, 32, 32)
        assert prediction.masks.shape == (1, labels.classes.count, 32, 32)
        numbers = test.masks[index]
        truth, known = labels.class_masks(numbers)[0], numbers != IGNORED
        assert ((prediction.masks[0] == truth) | ~known).float().mean() > 0.8  # background alone: a half to two thirds
    again = list(NNUNetImplementation(config.network).load(config, tmp_path, device, None)(test, config))
    assert all(torch.equal(a.mean, b.mean) for a, b in zip(found, again, strict=True))
    others = config.with_leaves({"data.classes": [[f"other {name}", values] for name, values in config.data.classes]})
    with pytest.raises(UserError, match=r"it was trained on .*, not on other"):
        NNUNetImplementation(config.network).load(others, tmp_path, device, None)
