"""The heads of E1, and dropout in prediction: their losses against closed forms, and samples of whole masks."""

import math

import numpy as np
import pytest
import torch
from conftest import split_of
from scipy import integrate, stats
from small_networks import NETWORKS
from torch import nn

from diffseg.config import Config
from diffseg.errors import ConfigError
from diffseg.experiments import build_experiment, build_network
from diffseg.experiments.dropout import find_dropout, keep_dropping
from diffseg.experiments.heads import make_head
from diffseg.experiments.protocol import WHOLE_BATCH
from diffseg.labels.labels import Labels, Masks
from diffseg.prediction.ensembles import predict_split
from diffseg.prediction.noise import CountedNoise
from diffseg.randomness import generator
from diffseg.training.hooks import Hooks
from diffseg.training.loop import train
from diffseg.training.state import initialise_network, start_or_resume
from studies.planning.estimate import estimate_cost

KINDS = {
    "low-rank": {"head__kind": "low-rank", "head__rank": 3},
    "latent": {"head__kind": "latent", "head__features": 8, "head__width": 8, "head__dimensions": 2},
    "dropout": {"inference__dropout": True, "network__dropout": 0.3},
}
CLASSES = {"data__kind": "classes", "data__classes": {"smooth": 1, "grainy": 2}}


class Noise:
    """Noise as predictions are given it, of any generator."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape, self.draw = shape, generator("cpu", 0)

    def __call__(self, k: int) -> torch.Tensor:
        return torch.randn(self.shape, generator=self.draw)

    def vectors(self, k: int, length: int) -> torch.Tensor:
        return torch.randn(self.shape[0], length, generator=self.draw)


def e1(tiny, **leaves):
    return tiny(experiment="e1", **leaves)


def draw(count, classes, size=16):
    """Return images and stored masks of `count` images."""
    source = generator("cpu", 1)
    images = torch.rand(count, 3, size, size, generator=source) * 2 - 1
    return images, torch.randint(0, classes + 1, (count, 1, size, size), generator=source)


def test_the_loss_of_low_rank_is_the_likelihood_of_a_normal_distribution_of_logits(tiny):
    """Of one pixel, with mean m and variance s² + v: −ln ∫ σ(η) N(η; m, s² + v) dη."""
    head = make_head(e1(tiny, head__kind="low-rank", head__rank=2, head__draws=400_000))
    mean, variance, factor = 0.4, 0.7, (1.1, -0.5)
    output = torch.tensor([mean, math.log(variance), *factor]).view(1, 4, 1, 1)
    truth = Masks(torch.ones(1, 1, 1, 1), None)
    loss = head.loss(nn.Identity(), output, torch.zeros(1, 3, 1, 1), truth, generator("cpu", 0), WHOLE_BATCH, 1)
    total = stats.norm(mean, math.sqrt(variance + factor[0] ** 2 + factor[1] ** 2))
    exact, _ = integrate.quad(lambda eta: total.pdf(eta) / (1 + math.exp(-eta)), -30, 30)
    assert float(loss) == pytest.approx(-math.log(exact), abs=2e-3)


def test_pixels_of_low_rank_logits_depend_on_each_other(tiny):
    """The likelihood of two pixels that move together: −½ ln ∫ σ(η)² N(η; 0, 4) dη, not that of two by themselves."""
    head = make_head(e1(tiny, head__kind="low-rank", head__rank=1, head__draws=400_000))
    output = torch.tensor([[0.0, 0.0], [-20.0, -20.0], [2.0, 2.0]]).view(1, 3, 1, 2)
    truth = Masks(torch.ones(1, 1, 1, 2), None)
    loss = head.loss(nn.Identity(), output, torch.zeros(1, 3, 1, 2), truth, generator("cpu", 0), WHOLE_BATCH, 1)
    both, _ = integrate.quad(lambda eta: stats.norm(0, 2).pdf(eta) / (1 + math.exp(-eta)) ** 2, -30, 30)
    assert float(loss) == pytest.approx(-math.log(both) / 2, abs=2e-3)


def test_samples_of_low_rank_logits_have_the_covariance_that_the_network_puts_out(tiny):
    head, count = make_head(e1(tiny, head__kind="low-rank", head__rank=2, **CLASSES)), 60_000
    output = torch.randn(1, 3 * 4, 1, 2, generator=generator("cpu", 3)) * 0.5
    which = torch.zeros(count, dtype=torch.long)
    found = head.sample(nn.Identity(), output, torch.zeros(1, 3, 1, 2), which, Noise((count, 3, 1, 2)))
    mean, log_variance, factor = output[0, :3].flatten(), output[0, 3:6].flatten(), output[0, 6:].view(2, 6)
    normal = torch.distributions.LowRankMultivariateNormal(mean, factor.T, log_variance.exp() + 1e-5)
    assert torch.allclose(found.flatten(1).mean(0), mean, atol=0.02)
    assert torch.allclose(found.flatten(1).T.cov(), normal.covariance_matrix, atol=0.04)


@pytest.mark.parametrize("classes", [{}, CLASSES], ids=["one class", "two classes"])
def test_the_loss_of_latent_is_the_cross_entropy_and_the_divergence(tiny, classes):
    config = e1(tiny, **KINDS["latent"], head__beta=3.0, **classes)
    network, labels, head = initialise_network(config), Labels.of(config), make_head(config)
    images, numbers = draw(2, labels.classes.count)
    truth, output = labels.read(numbers), torch.randn(2, 8, 16, 16, generator=generator("cpu", 2))
    loss = head.loss(network, output, images, truth, generator("cpu", 5), WHOLE_BATCH, 2)

    prior, posterior = (
        network.latent.prior(images),
        network.latent.posterior(torch.cat([images, truth.channels - 0.5], 1)),
    )
    z = posterior.mean + posterior.stddev * torch.randn(2, 2, generator=generator("cpu", 5))
    p = labels.activate(network.latent(output, z)).double()
    right = (truth.channels * p).sum(1) if classes else torch.where(truth.channels > 0, p, 1 - p)[:, 0]
    shift, ratio = posterior.mean - prior.mean, posterior.stddev / prior.stddev
    divergence = (ratio**2 + (shift / prior.stddev) ** 2 - 1 - 2 * ratio.log()).sum(1) / 2
    expected = (-right.log().sum((1, 2)) + 3 * divergence).mean() / 256
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.latent.parameters())


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", ["low-rank", "latent"])
def test_every_network_of_e1_learns_with_every_head(network, kind):
    head = {path.replace("__", "."): value for path, value in (KINDS[kind] | CLASSES).items()}
    leaves = {"experiment": "e1", "network": network.split()[0], "data.size": 32}
    config = Config().with_leaves(leaves | NETWORKS[network] | head).resolved()
    images, numbers = draw(2, 2, 32)
    built = build_network(config).train()
    loss = build_experiment(config).loss(built, images, numbers, generator("cpu", 0))
    loss.backward()
    assert torch.isfinite(loss)
    assert sum(float(parameter.grad.abs().sum()) for parameter in built.parameters() if parameter.grad is not None) > 0
    which = torch.tensor([0, 0, 1])
    found, evaluations = build_experiment(config).predict(
        built.eval(), images, Noise((3, 3, 32, 32)), which, torch.ones(1)
    )
    assert found.shape == (3, 2, 32, 32)
    assert evaluations.tolist() == [1, 1, 1]
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_in_parts_has_the_loss_of_the_whole(tiny, kind):
    config = e1(tiny, **{key: value for key, value in KINDS[kind].items() if "dropout" not in key})
    network, objective, (images, numbers) = initialise_network(config), build_experiment(config), draw(4, 1)
    losses = [
        objective.loss(network, images, numbers, generator("cpu", 0), part).item()
        for part in (WHOLE_BATCH, slice(0, 1), slice(1, 4))
    ]
    assert losses[0] == pytest.approx((losses[1] + 3 * losses[2]) / 4, rel=1e-5)


def settle(network):
    """Give weights to the last convolution, which starts with zeros."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d) and not part.weight.any():
            nn.init.normal_(part.weight, std=0.2, generator=generator("cpu", 0))
    return network.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_samples_depend_neither_on_the_batch_nor_on_other_images(tiny, kind):
    split = split_of(
        [
            torch.randint(0, 255, (3, side, side), dtype=torch.uint8, generator=generator("cpu", side))
            for side in (16, 20, 24)
        ],
        [torch.zeros(1, side, side, dtype=torch.uint8) for side in (16, 20, 24)],
    )
    config = e1(tiny, **KINDS[kind], data__fit="crop", inference__ensemble=3)
    network = settle(initialise_network(config))

    def predict(batch, names=None):
        own = config.with_leaves({"inference.batch": batch})
        some = split if names is None else split.subset(torch.tensor(names))
        return [prediction.mean for prediction in predict_split(network, some, own)], [
            prediction.masks for prediction in predict_split(network, some, own)
        ]

    means, masks = predict(64)
    for batch in (1, 4):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(means, predict(batch)[0], strict=True))
    (alone,), _ = predict(64, [1])
    assert torch.allclose(alone, means[1], atol=1e-5)
    assert any(not torch.equal(own[0], own[1]) for own in masks)


def test_tiles_of_an_image_share_what_moves_the_whole_mask(tiny):
    """The logits are the shared draw alone: each member is one value everywhere, whatever the tiles."""
    config = e1(tiny, head__kind="low-rank", head__rank=1, data__fit="crop", inference__ensemble=4)

    class Shared(nn.Module):
        def forward(self, x_t, t, image):
            return torch.tensor([0.0, -30.0, 5.0]).view(1, 3, 1, 1).expand(len(image), 3, *image.shape[2:])

    split = split_of([torch.zeros(3, 40, 30, dtype=torch.uint8)], [torch.zeros(1, 40, 30, dtype=torch.uint8)])
    (prediction,) = predict_split(Shared(), split, config)
    shares = prediction.masks.float().mean((1, 2, 3)).tolist()
    assert all(share in (0.0, 1.0) for share in shares)
    assert prediction.sd.max() > 0.1


def test_vectors_on_gpus_share_no_value_with_each_other_or_with_maps():
    """What a GPU draws, computed here: each draw has words of its own, whatever its length, and tiles of a member the same."""
    keys, members = torch.tensor([5, 5, 5, 9]), torch.tensor([0, 0, 1, 0])
    noise = CountedNoise(keys, members, torch.tensor([[0, 0], [4, 8], [0, 0], [0, 0]]), 1, 16)
    drawn = [noise.vectors(k, length) for k, length in ((0, 10), (1, 4), (1, 300), (2, 150), (3, 75), (4, 300))]
    assert [one.shape[1] for one in drawn] == [10, 4, 300, 150, 75, 300]
    for one in drawn:
        assert torch.equal(one[0], one[1])
        assert not torch.equal(one[0], one[2])
        assert not torch.equal(one[0], one[3])
    values = [set(one[0].tolist()) for one in (*drawn[:1], *drawn[2:], noise(0).flatten(1))]
    for k, one in enumerate(values):
        assert not any(one & other for other in values[k + 1 :])
    assert abs(float(noise.vectors(7, 100_000)[0].mean())) < 0.02


def test_dropout_in_prediction_drops_the_share_that_training_does_and_keeps_the_mean():
    network = nn.Sequential(nn.Dropout(0.3), nn.Dropout2d(0.4)).eval()
    x = torch.ones(500, 8, 4, 4)
    with keep_dropping(network, Noise((500, 8, 4, 4))):
        found = network(x)
        (whole,) = torch.unique(network[1](x).flatten(2).std(2))  # a channel is kept or dropped as a whole
    assert float(whole) == 0
    assert float((found == 0).float().mean()) == pytest.approx(1 - 0.7 * 0.6, abs=0.02)
    assert float(found.mean()) == pytest.approx(1, abs=0.04)
    assert torch.equal(network(x), x)
    assert find_dropout(nn.Sequential(nn.Dropout(0.0), nn.ReLU())) == []


def test_dropout_and_heads_make_networks_random_that_are_not(tiny):
    plain = Config().with_leaves({"experiment": "e1", "network": "segformer", "data.size": 32}).resolved()
    assert plain.inference.ensemble == 1
    assert plain.with_leaves({"head.kind": "latent", "inference.ensemble": 5}).resolved().inference.ensemble == 5


def test_settings_of_heads_that_nothing_uses_are_at_their_defaults(tiny):
    assert e1(tiny, head__rank=4).digest == e1(tiny).digest
    assert e1(tiny, head__kind="latent", head__rank=4).digest == e1(tiny, head__kind="latent").digest
    assert tiny(head__kind="latent").digest == tiny().digest  # E2 has none
    assert tiny(inference__dropout=True).digest == tiny().digest


@pytest.mark.parametrize(
    ("leaves", "words"),
    [
        (
            {"network": "ensemdiff"},
            "inference.dropout is true, but ensemdiff drops no units: set network.dropout, such as 0.1",
        ),
        ({"network": "segformer"}, "inference.dropout is true, but segformer drops no units: leave it out"),
    ],
)
def test_dropout_without_units_to_drop_is_refused(leaves, words):
    with pytest.raises(ConfigError, match=words):
        Config().with_leaves({"experiment": "e1", "inference.dropout": True} | leaves)


AMBIGUOUS = {"training__steps": 200, "training__batch": 8, "training__learning_rate": 1e-3, "training__ema": 0.8}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["low-rank", "latent"])
def test_a_head_learns_that_a_mask_is_one_of_two(tiny, tmp_path, kind):
    """The raters mark either the left or the right half. A probability for each pixel cannot say so: it is one half everywhere."""
    config = e1(tiny, **AMBIGUOUS, head__kind=kind, head__width=16, inference__ensemble=16)
    left = torch.zeros(16, 16, dtype=torch.uint8)
    left[:, :8] = 1
    images = [torch.randint(0, 255, (3, 16, 16), dtype=torch.uint8, generator=generator("cpu", n)) for n in range(12)]
    split = split_of(images, [torch.stack([left, 1 - left])] * 12)
    state = start_or_resume(config, tmp_path, torch.device("cpu"))
    train(config, split, state, tmp_path, lambda state: [], (), Hooks())
    agree = []
    for prediction in predict_split(state.average, split, config):
        share = (prediction.masks[:, 0] == left.bool()).float().mean((1, 2))
        agree.append(share.numpy())
    agree = np.stack(agree)  # [images, members]: 1 for the left half, 0 for the right one
    assert np.maximum(agree, 1 - agree).mean() > 0.9
    assert 0.2 < (agree > 0.5).mean() < 0.8


def test_a_network_that_trains_itself_does_not_see_a_head():
    plain = Config().with_leaves({"experiment": "e1", "network": "nnunet"})
    for leaves in ({"head.kind": "low-rank"}, {"inference.augment": "symmetries"}, {"inference.dropout": True}):
        assert plain.with_leaves(leaves).resolved().digest == plain.resolved().digest


@pytest.mark.parametrize("kind", ["low-rank", "latent"])
def test_estimates_count_the_weights_of_the_head(tiny, kind):
    config = e1(tiny, **KINDS[kind])
    own = sum(parameter.numel() for parameter in build_network(config).parameters())
    assert estimate_cost(config).parameters == own
    assert config.network.implementation().evaluations_per_image(config) == 1
    turned = config.with_leaves({"inference.augment": "symmetries", "inference.ensemble": 16})
    assert turned.network.implementation().evaluations_per_image(turned) == 8
