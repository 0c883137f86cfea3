import itertools
import math
from dataclasses import replace

import pytest
import torch
from class_kinds import KINDS
from conftest import split_of
from hypothesis import given
from hypothesis import strategies as st
from test_networks import SMALL

from diffseg.bench.peers import WithoutImageCache
from diffseg.diffusion.schedules import log_snr
from diffseg.experiments import build_network
from diffseg.prediction.ensembles import predict_split
from diffseg.prediction.noise_errors import measure_noise_errors
from diffseg.prediction.tiling import tile_corners


@given(st.integers(16, 90), st.integers(16, 90), st.integers(4, 16), st.floats(0, 0.9))
def test_tiles_cover_the_image_with_the_requested_overlap(height, width, size, overlap):
    places = tile_corners(height, width, size, overlap)
    covered = torch.zeros(height, width)
    for top, left in places:
        assert 0 <= top <= height - size
        assert 0 <= left <= width - size
        covered[top : top + size, left : left + size] += 1
    assert (covered > 0).all()
    starts = sorted({top for top, _ in places})
    assert all(b - a <= round(size * (1 - overlap)) or b - a == 1 for a, b in itertools.pairwise(starts))


def split(count=3, height=20, width=27):
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (count, 3, height, width), generator=draw, dtype=torch.uint8)
    sizes = [(height, width), (16, 16), (18, width)][:count]
    images = [image[:, :h, :w] for image, (h, w) in zip(images, sizes, strict=True)]
    return split_of(images, [(image[:1] > 128).byte() for image in images])


def trained(config):
    torch.manual_seed(0)
    network = build_network(config).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network


@pytest.mark.sampled(2)
@pytest.mark.parametrize("experiment", ["e1", "e2"])
@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
@pytest.mark.parametrize("settled", [None, 1])
def test_predictions_do_not_depend_on_the_batch_size(experiment, sampler, settled, tiny):
    found = []
    for batch in (1, 5, 64):
        config = tiny(
            experiment=experiment,
            data__fit="crop",
            inference__sampler=sampler,
            inference__steps=6,
            inference__settled=settled,
            inference__batch=batch,
            inference__ensemble=3,
        )
        found.append(list(predict_split(trained(config), split(), config)))
    for others in zip(*found, strict=True):
        assert len({p.index for p in others}) == 1
        for p in others:
            assert p.mean.shape == (1, *split().sizes[p.index].tolist())
            assert torch.allclose(p.mean, others[0].mean, atol=1e-5)
            assert torch.allclose(p.sd, others[0].sd, atol=1e-5)
            assert p.evaluations == others[0].evaluations
            assert p.evaluations == (1 if experiment == "e1" else 6) or (settled and p.evaluations < 6)


MULTI = [
    ("classes", {"experiment": "e1"}),
    ("classes", {"experiment": "e2", "inference__settled": 1}),
    ("classes", {"experiment": "e2", "diffusion__coding": "bits", "diffusion__activation": "identity"}),
    ("classes", {"experiment": "e2", "diffusion__coding": "sdf", "inference__augment": "symmetries"}),
    ("classes", {"experiment": "e2", "inference__merge": "vote", "inference__sampler": "ddim"}),
    ("regions", {"experiment": "e1", "inference__augment": "symmetries"}),
    ("regions", {"experiment": "e2", "diffusion__coding": "01", "diffusion__activation": "identity"}),
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("resolution", ["network", "original"])
@pytest.mark.parametrize(("kind", "settings"), MULTI)
def test_predictions_of_several_classes_do_not_depend_on_the_batch_size(kind, settings, resolution, tiny):
    """At the images' own size, too, which here is three times as high and twice as wide."""
    images, found = split(), []
    originals = tuple((3 * height, 2 * width) for height, width in images.sizes.tolist())
    images = replace(images, records=(None,) * 3, originals=originals)
    for batch in (1, 5, 64):
        config = tiny(
            **KINDS[kind],
            **settings,
            data__fit="crop",
            inference__steps=3,
            inference__ensemble=3,
            inference__batch=batch,
            inference__resolution=resolution,
        )
        found.append(list(predict_split(trained(config), images, config)))
    for others in zip(*found, strict=True):
        size = originals[others[0].index] if resolution == "original" else tuple(images.sizes[others[0].index].tolist())
        for p in others:
            assert p.mean.shape == (len(KINDS[kind]["data__classes"]), *size)
            assert torch.allclose(p.mean, others[0].mean, atol=1e-4)
            assert torch.allclose(p.sd, others[0].sd, atol=1e-4)
            assert p.evaluations == others[0].evaluations
            assert float(p.mean.std((1, 2)).min()) > 0 or config.inference.merge == "vote"
            if kind == "classes":
                assert float(p.mean.sum(0).max()) <= 1 + 1e-5
                assert int(p.masks.sum(1).max()) <= 1


def test_batches_span_images_and_only_the_last_is_smaller(tiny):
    config = tiny(inference__ensemble=5, inference__batch=4, inference__steps=1)
    network, sizes = trained(config), []
    network.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    images = [torch.zeros(channels, 16, 16, dtype=torch.uint8) for channels in (3, 1)]
    three = split_of(images[:1] * 3, images[1:] * 3)
    assert [found.index for found in predict_split(network, three, config)] == [0, 1, 2]
    assert sizes == [4, 4, 4, 3]


def test_members_differ_and_the_ensemble_has_their_mean_and_deviation(tiny):
    config = tiny(inference__ensemble=4)
    (one, *_) = predict_split(trained(config), split(), config)
    assert float(one.sd.max()) > 0.01
    assert ((one.mean >= 0) & (one.mean <= 1)).all()
    assert (one.sd <= 0.5 + 1e-6).all()
    (alone, *_) = predict_split(trained(config), split(), tiny(inference__ensemble=1))
    assert float(alone.sd.max()) == 0


def test_votes_are_shares_of_the_members(tiny):
    config = tiny(inference__ensemble=4, inference__merge="vote")
    (one, *_) = predict_split(trained(config), split(), config)
    assert set((one.mean * 4).unique().tolist()) <= {0, 1, 2, 3, 4}


def test_blending_perfect_tiles_leaves_no_seams(tiny):
    """An E1 network takes the mask from the image's brightness, which blending must not change anywhere."""
    config = tiny(experiment="e1", data__fit="crop")
    (one, *_) = predict_split(lambda x_t, t, image: 1e4 * (image[:, :1] - 129 / 127.5 + 1 + 1e-3), split(), config)
    assert torch.equal(one.mean > 0.5, split().masks[0].bool())
    assert torch.allclose(one.mean, (one.mean > 0.5).float(), atol=1e-4)


@pytest.mark.parametrize("kind", ["classes", "regions"])
@pytest.mark.parametrize("overlap", [0, 0.5, 0.8])
def test_blending_perfect_tiles_of_several_classes_leaves_no_seams(kind, overlap, tiny):
    """An E1 network takes the classes from the image's brightness, from dark to bright."""
    config = tiny(**KINDS[kind], experiment="e1", data__fit="crop", inference__overlap=overlap)
    steps = torch.tensor([63.5, 127.5, 191.5])[: 3 if kind == "regions" else 2, None, None]

    def network(x_t, t, image):
        above = (image[:, :1] + 1) * 127.5 - steps
        inside = (
            above
            if kind == "regions"
            else torch.cat([-above[:, :1], torch.minimum(above[:, :1], -above[:, 1:]), above[:, 1:]], 1)
        )
        return 1e4 * inside

    for one in predict_split(network, split(), config):
        above = split().images[one.index][:1].float() > steps
        truth = above if kind == "regions" else torch.stack([above[0] & ~above[1], above[1]])
        assert torch.equal(one.masks, truth.expand(2, -1, -1, -1))
        assert torch.allclose(one.mean, truth.float(), atol=1e-4)


@pytest.mark.parametrize("experiment", ["e2", "e3", "e4"])
@pytest.mark.parametrize("coding", ["pm1", "01"])
def test_noise_errors_of_an_oracle_and_of_a_constant(experiment, coding, tiny):
    """x̂0 between the classes has an error of 1 in units of masks in ±1, in every coding. E4 has no mask error."""
    config = tiny(
        experiment=experiment, diffusion__coding=coding, diffusion__activation="identity", inference__timesteps=5
    )
    middle = 0.0 if coding == "pm1" or experiment == "e4" else 0.5
    rows = measure_noise_errors(lambda x_t, t, image: torch.full_like(x_t, middle), split(1, 16, 16), config)
    assert [row["t"] for row in rows] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(a["log_snr"] > b["log_snr"] for a, b in itertools.pairwise(rows))
    for row in rows:
        if experiment == "e4":
            assert all(math.isnan(row[name]) for name in ("mask_error", "dice_error", "cross_entropy"))
            assert row["loss"] == pytest.approx(1, abs=0.2)  # ε has unit variance
        else:
            assert row["mask_error"] == pytest.approx(1)
            assert row["loss"] == pytest.approx(1 if coding == "pm1" else 0.25)
            assert row["cross_entropy"] == pytest.approx(math.log(2))
            assert row["dice_error"] == 1  # p = 0.5 is cut to background


def test_the_errors_of_all_levels_share_images_and_noises(tiny):
    """The inputs at two levels come from the same x0 and ε. Few images are repeated with other noises."""
    config = tiny(experiment="e3", diffusion__coding="pm1", inference__timestep_images=5, inference__batch=5)
    seen = []
    measure_noise_errors(lambda x_t, t, image: seen.append(x_t) or torch.zeros_like(x_t), split(2, 16, 16), config)
    masks = torch.stack([split(2, 16, 16).masks[k % 2].reshape(1, 16, 16).float() * 2 - 1 for k in range(5)])
    times = torch.arange(1, len(seen) + 1) / len(seen)
    noises = []
    for x_t, level in zip(seen, log_snr(times.double(), config.diffusion).float(), strict=True):
        noises.append((x_t - torch.sigmoid(level).sqrt() * masks) / torch.sigmoid(-level).sqrt())
    for noise in noises[1:]:
        assert torch.allclose(noise, noises[-1], atol=1e-3)
    assert not torch.allclose(noises[-1][0], noises[-1][2], atol=0.1)


def test_noise_errors_of_half_a_mask_equal_their_closed_forms(tiny):
    """Missing half of the foreground F costs 4 F/2 of squared error, gives a Dice of 2/3, and −ln 1e-6 a missed pixel."""
    masks = split(1, 16, 16).masks[0][None].float()
    half = masks * (torch.arange(16) < 8)
    missed, foreground = float((masks - half).mean()), float(masks.mean())
    config = tiny(experiment="e3", diffusion__activation="identity", inference__timestep_images=1)
    for row in measure_noise_errors(lambda x_t, t, image: half * 2 - 1, split(1, 16, 16), config):
        assert row["mask_error"] == pytest.approx(4 * missed)
        assert row["dice_error"] == pytest.approx(1 - 2 * (foreground - missed) / (2 * foreground - missed))
        assert row["cross_entropy"] == pytest.approx(missed * -math.log(1e-6), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_members_of_test_time_augmentation_see_the_eight_symmetries_of_a_tile(kind, tiny):
    """A network that marks the tile's upper left quarter as the last class marks each quarter in turn."""
    config = tiny(
        **KINDS[kind],
        experiment="e1",
        data__fit="crop",
        inference__augment="symmetries",
        inference__ensemble=8,
        inference__overlap=0,
    )

    def corner(x_t, t, image):
        logits = torch.full_like(x_t, -100.0)
        if kind == "classes":
            logits[:, 0] = 0.0
        logits[:, -1, :8, :8] = 100.0
        return logits

    (one, *_) = predict_split(corner, split(1).crop(torch.zeros(1, 2, dtype=torch.long), 16), config)
    assert torch.allclose(one.mean[-1], torch.full((16, 16), 0.25))
    assert torch.allclose(one.sd[-1], torch.full((16, 16), 0.1875**0.5))
    assert float(one.mean[:-1].sum()) < 1e-6
    places = one.masks[:, -1].reshape(8, 2, 8, 2, 8).float().mean((2, 4))  # of quarters
    assert torch.equal(places.sum(0), torch.full((2, 2), 2.0))


@pytest.mark.parametrize("name", ["segdiff", "medsegdiff-new", "medsegdiff-v1"])
@pytest.mark.parametrize("views", ["none", "symmetries"])
def test_features_of_the_image_are_computed_once_and_change_nothing(name, views, tiny):
    config = tiny(experiment="e2", data__size=32, inference__steps=3, inference__ensemble=4, inference__augment=views)
    config = config.model_copy(update={"network": SMALL[name]})
    network, seen = trained(config), []
    whole = network.image_features
    network.image_features = lambda image: seen.append(len(image)) or whole(image)
    found = list(predict_split(network, square(), config))
    assert seen == [2 if views == "none" else 8]
    for one, other in zip(found, predict_split(WithoutImageCache(network), square(), config), strict=True):
        assert torch.allclose(one.mean, other.mean, atol=1e-5)
    assert len(seen) == (1 if name == "medsegdiff-v1" else 1 + 3)


def square(count=2, size=32):
    draw = torch.Generator().manual_seed(0)
    images = list(torch.randint(0, 255, (count, 3, size, size), generator=draw, dtype=torch.uint8))
    return split_of(images, [(image[:1] > 128).byte() for image in images])
