"""The settings of a plan: frames by the size of objects, networks, trainings, and their reasons."""

from dataclasses import replace

import pytest

from diffseg.config import Config, Data
from studies.auto import design
from studies.auto.design import Frame
from studies.auto.inspection import Inspection

LESIONS = Inspection(Data(), (), 3, 1, False, 500.0, 6e5, 90.0, 0.18, 800, 300, "symmetries", "it does not matter")
NUCLEI = replace(LESIONS, side=1000.0, area=1e6, diameter=12.0, share=0.012, train_images=30, test_images=14)
HIPPOCAMPI = replace(LESIONS, side=42.0, area=1800.0, diameter=4.0, share=0.095, channels=1, volumes=True, flips="none")


@pytest.mark.parametrize(
    ("found", "frames"),
    [
        (LESIONS, [Frame(64), Frame(32)]),
        (replace(LESIONS, share=0.05, diameter=25.0), [Frame(128), Frame(64, 0.24), Frame(32, 0.24)]),
        (NUCLEI, [Frame(64, 0.5), Frame(32, 0.5)]),
        (HIPPOCAMPI, [Frame(64), Frame(32, 1.0)]),
        (replace(LESIONS, share=0.001, diameter=0.5, side=30.0), [Frame(32)]),
    ],
    ids=[
        "large lesions are seen whole, smaller ones only for want of time",
        "cut images are cheaper",
        "nuclei need crops",
        "small images are not enlarged further",
        "nothing shows the objects",
    ],
)
def test_frames_show_the_smallest_objects(found, frames):
    assert design.list_frames(found) == frames


def test_a_frame_that_costs_too_much_gives_way_to_the_next():
    frames = design.list_frames(NUCLEI)
    assert design.choose_frame(frames, lambda frame: frame.size < 64) == Frame(32, 0.5)
    assert design.choose_frame(frames, lambda frame: False) == frames[-1]


def test_reasons_have_the_numbers():
    whole = design.describe_frame(Frame(64), LESIONS)
    assert whole.settings == {"data.size": 64, "data.fit": "resize"}
    assert "below 90 px, which become 11.5 px" in whole.reason
    crops = design.describe_frame(Frame(64, 0.5), NUCLEI)
    assert crops.settings["data.scale"] == 0.5
    assert "which become 6.0 px in crops; of whole images at 256 px 3.1 px would remain" in crops.reason


def test_tiles_cover_the_largest_image():
    assert Frame(64).tiles(1e6) == 1
    assert Frame(64, 0.5).tiles(1e6) == 109  # 500 px a side, by 48 px


@pytest.mark.parametrize(
    ("size", "multipliers", "attention"),
    [(32, [1, 1, 2], [4]), (64, [1, 1, 2, 2], [8]), (128, [1, 1, 1, 2, 2], [16]), (16, [1, 2], [2])],
)
def test_networks_have_a_lowest_level_of_eight_pixels(size, multipliers, attention):
    found = design.choose_network(size).settings
    assert (found["network.multipliers"], found["network.attention"]) == (multipliers, attention)
    config = Config().with_leaves(found | {"data.size": size})
    config.network.check_size(size)


@pytest.mark.parametrize("steps", [1, 20, 400, 20_000])
def test_trainings_of_any_length_are_allowed(steps):
    training = Config().with_leaves(design.describe_training().settings | design.choose_steps(steps)).training
    assert training.steps == steps
    assert training.warmup <= max(1, steps // 20)
    assert 0.9 <= training.ema < 1


def test_files_decide_channels_scaling_and_flips():
    leaves = {}
    for choice in design.describe_data(HIPPOCAMPI):
        leaves |= choice.settings
        assert choice.reason
    assert leaves == {"data.channels": 1, "data.normalise": "case", "data.augment.flips": "none"}
    assert design.describe_data(LESIONS)[1].settings == {"data.normalise": "range"}


def test_test_images_are_limited_where_they_would_take_most_of_the_time():
    assert design.choose_test_images(LESIONS, 0.1, 600) is None
    limit = design.choose_test_images(LESIONS, 10.0, 1200)
    assert limit.settings == {"data.test_images": 30}
    assert "all 300 would take 50 min" in limit.reason
    assert design.choose_test_images(LESIONS, 100.0, 600).settings == {"data.test_images": 20}
    assert design.choose_test_images(replace(LESIONS, test_images=10), 100.0, 600) is None


def test_the_papers_settings_are_settings():
    assert Config().with_leaves(design.PAPER).diffusion.target == "epsilon"
