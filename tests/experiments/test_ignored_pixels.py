"""Ignored pixels count nowhere: neither in losses nor in gradients, in measured errors, or in the borders of classes."""

import pytest
import torch
from label_kinds import KINDS, draw_numbers

from diffseg.errors import ConfigError
from diffseg.experiments import build_experiment
from diffseg.labels.classes import IGNORED
from diffseg.labels.labels import Labels
from diffseg.randomness import generator

SIGMOID = {"diffusion.activation": "sigmoid"}
OBJECTIVES = {
    "e1": {"experiment": "e1"},
    "e3": {"experiment": "e3"},
    "mse": {},
    "mse of ε, summed": {"diffusion.target": "epsilon", "diffusion.reduction": "sum"},
    "mse of v": {"diffusion.target": "v", "diffusion.weighting": "min-snr"},
    "boundary": {"diffusion.loss": "boundary", "diffusion.boundary_width": 2.0},
    "cross-entropy": SIGMOID | {"diffusion.loss": "cross-entropy"},
    "Dice and cross-entropy": SIGMOID | {"diffusion.loss": "dice-cross-entropy"},
    "learned variance": {"diffusion.variance": "learned"},
}
CODINGS = ("pm1", "01", "bits", "sdf")


@pytest.fixture
def configured(tiny):
    """A function that configures a kind of classes with ignored pixels; it skips what `Config` refuses."""

    def configure(kind, coding="pm1", **leaves):
        settings = KINDS[kind] | {"data.ignore": 255, "diffusion.coding": coding} | leaves
        try:
            return tiny(**{path.replace(".", "__"): value for path, value in settings.items()})
        except ConfigError as error:
            pytest.skip(str(error))

    return configure


def draw_outputs(config, size=16, count=2):
    """Draw what a network puts out."""
    channels = Labels.of(config).channels * (2 if config.diffusion.variance == "learned" else 1)
    return torch.randn(count, channels, size, size, generator=generator("cpu", 0, "outputs"))


def measure_loss(config, numbers, outputs):
    """Return the loss of a network that puts these out whatever goes in, and its gradient."""
    outputs = outputs.clone().requires_grad_()
    images = torch.zeros(len(numbers), 3, *numbers.shape[2:])
    experiment, network = build_experiment(config), lambda x_t, t, image: outputs
    if config.experiment == "e1":
        loss = experiment.loss(network, images, numbers, generator("cpu", 0))
    else:
        t = torch.linspace(0.3, 0.7, len(numbers), dtype=torch.float64)
        noise = torch.randn(len(numbers), Labels.of(config).channels, 16, 16, generator=generator("cpu", 0, "noise"))
        loss = experiment.loss_at(network, images, numbers, t, noise[..., : numbers.shape[-1]])
    loss.backward()
    return loss.detach(), outputs.grad


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_at_ignored_pixels_change_neither_loss_nor_gradient(kind, objective, coding, configured):
    config = configured(kind, coding, **OBJECTIVES[objective])
    numbers, outputs = draw_numbers(config), draw_outputs(config)
    ignored = (numbers == IGNORED).expand_as(outputs)
    loss, gradient = measure_loss(config, numbers, outputs)
    other_loss, other_gradient = measure_loss(config, numbers, outputs.masked_fill(ignored, 1e3))
    assert loss.isfinite()
    assert torch.equal(loss, other_loss)
    assert torch.equal(gradient, other_gradient)
    assert (gradient[ignored] == 0).all()
    assert (gradient[~ignored] != 0).float().mean() > 0.9
    everywhere = measure_loss(config, numbers.masked_fill(numbers == IGNORED, 0), outputs)
    assert not torch.allclose(loss, everywhere[0])


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_of_which_a_half_is_ignored_has_the_loss_of_the_other_half(kind, objective, coding, configured):
    """Classes below ignored pixels are unknown, so they have no border with what is known."""
    config = configured(kind, coding, **OBJECTIVES[objective])
    numbers, outputs = draw_numbers(config), draw_outputs(config)
    numbers[..., 8:] = IGNORED
    loss, gradient = measure_loss(config, numbers, outputs)
    half_loss, half_gradient = measure_loss(config, numbers[..., :8], outputs[..., :8])
    assert torch.allclose(loss, half_loss, rtol=1e-4)
    assert torch.allclose(gradient[..., :8], half_gradient, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", ["binary", "two", "regions"])
def test_a_batch_may_be_cut_into_parts_and_an_image_without_a_known_pixel_adds_nothing(kind, objective, configured):
    config = configured(kind, **OBJECTIVES[objective])
    numbers, outputs = draw_numbers(config), draw_outputs(config)
    numbers[1] = IGNORED
    loss, gradient = measure_loss(config, numbers, outputs)
    first, _ = measure_loss(config, numbers[:1], outputs[:1])
    assert torch.allclose(loss, first / 2)
    assert (gradient[1] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_calibration_of_medsegdiff_ignores_them(kind, configured):
    config = configured(
        kind, **{"network.name": "medsegdiff", "network.width": 32, "network.multipliers": [1, 1], "network.blocks": 1}
    )
    labels, numbers = Labels.of(config), draw_numbers(config)
    ignored = numbers == IGNORED
    extra = torch.rand(2, labels.classes.channels, 16, 16, generator=generator("cpu", 0)).requires_grad_()
    loss = config.network.implementation().extra_loss(extra, labels.read(numbers))
    loss.backward()
    assert (extra.grad[ignored.expand_as(extra)] == 0).all()
    assert (extra.grad[~ignored.expand_as(extra)] != 0).all()
    errors = (extra.detach() - labels.read(numbers).channels).square().mean(1, keepdim=True)
    each = torch.stack([error[~hole].mean() for error, hole in zip(errors, ignored, strict=True)])
    assert loss.item() == pytest.approx(10 * each.mean().item(), rel=1e-5)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_measured_errors_leave_them_out(kind, coding, configured):
    config = configured(kind, coding)
    numbers, outputs = draw_numbers(config, count=3), draw_outputs(config, count=3)
    numbers[..., 8:] = IGNORED
    numbers[2] = IGNORED
    t = torch.full((3,), 0.5, dtype=torch.float64)
    experiment = build_experiment(config)

    def measure(width):
        images, network = torch.zeros(3, 3, 16, width), lambda x_t, t, image: outputs[..., :width]
        noise = experiment.draw_noise(images, numbers[..., :width], generator("cpu", 0))
        return experiment.measure_errors(network, images, numbers[..., :width], t, noise)

    whole, half = measure(16), measure(8)
    for name in ("mask_error", "dice_error", "cross_entropy", "loss"):
        assert whole[name].shape == (3, len(Labels.of(config).classes.rows))
        assert torch.allclose(whole[name][:2].double(), half[name][:2].double(), rtol=1e-4), name
        assert (whole[name][2] == 0).all(), name  # nothing is known there


def test_e4_does_not_see_masks(configured):
    numbers = torch.full((2, 1, 16, 16), float(IGNORED))
    images = torch.rand(2, 3, 16, 16, generator=generator("cpu", 0))
    t, noise = torch.full((2,), 0.5, dtype=torch.float64), torch.zeros(2, 3, 16, 16)
    config = configured("two", experiment="e4")
    loss = build_experiment(config).loss_at(lambda x_t, t, image: torch.ones_like(x_t), images, numbers, t, noise)
    assert float(loss) == pytest.approx(1)
