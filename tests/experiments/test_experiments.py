"""The losses of the experiments, compared to closed forms and to numbers of the published code."""

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffseg.config import Config
from diffseg.diffusion.schedules import alpha_sigma, log_snr
from diffseg.diffusion.targets import to_epsilon, training_target
from diffseg.errors import ConfigError
from diffseg.experiments import build_experiment, build_network
from diffseg.labels.labels import Labels
from diffseg.networks.protocol import Dimensions
from diffseg.networks.published import load_published
from diffseg.randomness import generator


def constant(value, outputs=1):
    """Return a network whose output is the value everywhere."""
    return lambda x_t, t, image: torch.full((len(x_t), outputs * x_t.shape[1], *x_t.shape[2:]), value)


def batch(count=4, size=16):
    draw = generator("cpu", 0, "batch")
    images = torch.rand(count, 3, size, size, generator=draw) * 2 - 1
    return images, (images[:, :1] > 0).float(), torch.randn(count, 1, size, size, generator=draw)


def test_the_training_loss_of_ambdiff_equals_the_published_one(reference):
    stored = np.load(reference / "ambdiff.npz")
    state = {key.removeprefix("state/"): torch.from_numpy(stored[key]).float() for key in stored.files if "/" in key}
    config = Config().with_leaves(
        {
            "network.name": "ambdiff",
            "network.multipliers": [1, 2],
            "network.blocks": [1, 2],
            "network.middle": 2,
            "network.attention": [2],
            "diffusion.schedule": "cosine",
            "diffusion.input_scale": 0.1,
            "diffusion.target": "x0",
            "diffusion.activation": "tanh",
            "diffusion.weighting": "snr+1",
            "diffusion.time": "unit",
        }
    )
    network = config.network.implementation().build(Dimensions()).eval()
    load_published(network, state)
    image, mask, noise, t = (torch.from_numpy(stored[key]) for key in ("image", "mask", "noise", "t"))
    masks = mask if mask.min() == 0 else (mask + 1) / 2
    loss = build_experiment(config).loss_at(network, image, masks, t.double(), noise).detach()
    assert float(loss) == pytest.approx(float(stored["loss"]), rel=1e-6)


@pytest.mark.parametrize("target", ["epsilon", "x0"])
def test_snr_plus_one_weights_the_error_of_x0_for_every_target(target, tiny):
    config = tiny(diffusion__target=target, diffusion__activation="identity", diffusion__weighting="snr+1")
    images, masks, noise = batch(1)
    t = torch.tensor([0.6], dtype=torch.float64)
    snr = float(log_snr(t, config.diffusion).exp())
    alpha, sigma = math.sqrt(snr / (1 + snr)), math.sqrt(1 / (1 + snr))
    signal = masks * 2 - 1
    x0 = torch.zeros_like(signal) if target == "x0" else (alpha * signal + sigma * noise) / alpha
    loss = build_experiment(config).loss_at(constant(0.0), images, masks, t, noise)
    assert float(loss) == pytest.approx((snr + 1) * float((x0 - signal).square().mean()), rel=1e-4)


def test_the_summed_loss_is_the_mean_times_the_number_of_values(tiny):
    images, masks, noise = batch()
    t = torch.linspace(0.1, 1, 4, dtype=torch.float64)
    mean, total = (
        float(build_experiment(tiny(diffusion__reduction=how)).loss_at(constant(0.3), images, masks, t, noise))
        for how in ("mean", "sum")
    )
    assert total == pytest.approx(256 * mean)


def test_a_learned_variance_is_trained_by_the_variational_term_alone(tiny):
    """The prediction's gradient comes from the squared error alone."""
    images, masks, noise = batch()
    t = torch.linspace(0.1, 1, 4, dtype=torch.float64)
    gradients = {}
    for variance in ("small", "learned"):
        config = tiny(diffusion__variance=variance, diffusion__target="epsilon")
        outputs = torch.zeros(4, 2 if variance == "learned" else 1, 16, 16, requires_grad=True)
        build_experiment(config).loss_at(lambda x_t, t, image: outputs, images, masks, t, noise).backward()  # noqa: B023
        gradients[variance] = outputs.grad
    assert torch.allclose(gradients["learned"][:, :1], gradients["small"])
    assert (gradients["learned"][:, 1:] != 0).all()


@pytest.mark.parametrize("discrete", [True, False])
def test_discrete_training_uses_whole_steps_only(discrete, tiny):
    given = []

    def network(x_t, t, image):
        given.append(t)
        return torch.zeros_like(x_t)

    images, masks, _ = batch()
    config = tiny(diffusion__discrete=discrete)
    build_experiment(config).loss(network, images, masks, generator("cpu", 0))
    whole = (given[0] - given[0].round()).abs() < 1e-4
    assert whole.all() if discrete else not whole.any()


@pytest.mark.parametrize("experiment", ["e1", "e2", "e3", "e4"])
def test_medsegdiff_trains_its_calibration_where_there_is_an_image(experiment, tiny):
    losses = {}
    for weight in (0.0, 10.0):
        config = tiny(
            network__name="medsegdiff",
            network__width=32,
            network__multipliers=[1, 1],
            network__calibration=weight,
            experiment=experiment,
        )
        torch.manual_seed(0)
        network = build_network(config).eval()
        assert ("highway.head.weight" in network.state_dict()) == (experiment in ("e1", "e2"))
        images, masks, _ = batch()
        with torch.no_grad():
            losses[weight] = float(build_experiment(config).loss(network, images, masks, generator("cpu", 0)))
            calibration = network(masks, torch.zeros(4), images, extra=True)[1] if experiment in ("e1", "e2") else None
    expected = 0.0 if calibration is None else 10 * float((calibration - masks).square().mean())
    assert losses[10.0] - losses[0.0] == pytest.approx(expected, abs=1e-5)


PROFILE = [[-12.0, 0.0], [-4.0, 2.0], [0.0, 1.0], [6.0, 0.0]]
CHOICES = [
    {"target": "v", "weighting": "min-snr", "schedule": "sigmoid"},
    {"target": "epsilon", "weighting": "sigmoid", "decoupled": True},
    {"weighting": "learned"},
    {"density": "adaptive", "weighting": "debiased"},
    {"density": "profile", "unbiased": True, "mixing": 0.1},
    {"density": "independent", "weighting": "profile", "schedule": "laplace"},
    {"loss": "dice-cross-entropy", "activation": "sigmoid"},
    {"loss": "boundary", "variance": "learned", "discrete": True},
    {"self_conditioning": True, "ends": "zero-terminal"},
]


CLASSES = [  # settings of data and of the diffusion
    ({"classes": {"a": 1, "b": 2}}, {"loss": "dice-cross-entropy", "activation": "sigmoid"}),
    ({"classes": {"a": 1, "b": 2}, "ignore": 255}, {"coding": "bits", "variance": "learned"}),
    ({"classes": {"a": [1, 2], "b": [2, 3]}, "regions": True, "ignore": 255}, {"coding": "sdf", "loss": "boundary"}),
]


def chosen(tiny, choice, **more):
    profiled = "profile" in choice.values()
    settings = choice | ({"profile": PROFILE} if profiled else {})
    return tiny(**{f"diffusion__{key}": value for key, value in settings.items()}, **more)


@pytest.mark.parametrize(
    ("data", "choice"),
    [*(({}, choice) for choice in CHOICES), *CLASSES],
    ids=lambda choice: "-".join(map(str, choice.values())),
)
def test_no_step_waits_for_the_device(data, choice, tiny):
    """No number is read from a tensor, and no tensor is made from numbers of the host, once caches are warm."""

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            waiting = ("_local_scalar_dense", "nonzero", "lift_fresh", "masked_select", "equal", "unique")
            assert function.__name__.split(".")[0] not in waiting, function
            return function(*args, **(kwargs or {}))

    config = chosen(tiny, choice, **{f"data__{key}": value for key, value in data.items()})
    network, (images, masks, _) = build_network(config), batch()
    build_experiment(config).loss(network, images, masks, generator("cpu", 0)).backward()
    with Watch():
        for seed in (1, 2):
            build_experiment(config).loss(network, images, masks, generator("cpu", seed)).backward()


def record_calls(config, images, masks, step, value=0.5):
    """Return (x_t, time) of each call that a training step makes of a network whose output is constant."""
    found = []

    def network(x_t, t, image):
        found.append((x_t, t))
        return torch.full_like(x_t[:, :1], value) + torch.zeros(1, requires_grad=True)

    build_experiment(config).loss(network, images, masks, generator("cpu", 0, step))
    return found


class TestExposure:
    """Trainings that meet what sampling meets: states that the network has made itself."""

    def test_recycled_steps_noise_the_estimate_of_a_noisier_level(self, tiny):
        config, (images, masks, _) = tiny(diffusion__recycling=0.5, diffusion__activation="identity"), batch()
        calls = [record_calls(config, images, masks, step) for step in range(200)]
        recycled = [two for two in calls if len(two) == 2]
        assert 70 < len(recycled) < 130
        for (first, earlier), (second, t) in recycled:
            assert (earlier > t).all()
            scales = [
                alpha_sigma(log_snr((one.double() + 1) / config.diffusion.steps, config.diffusion), first)
                for one in (earlier, t)
            ]
            noise = (first - scales[0][0] * (2 * masks - 1)) / scales[0][1]
            assert torch.allclose(second, scales[1][0] * 0.5 + scales[1][1] * noise, atol=1e-3)

    def test_without_recycling_each_step_calls_the_network_once(self, tiny):
        images, masks, _ = batch()
        assert all(len(record_calls(tiny(), images, masks, step)) == 1 for step in range(20))

    @pytest.mark.parametrize("target", ["epsilon", "x0", "v", "flow", "edm", "x0-epsilon"])
    def test_the_target_of_a_recycled_step_leads_to_the_true_mask(self, target, tiny):
        """A network that outputs it has no error, from wherever x_t came."""
        config = tiny(diffusion__recycling=1.0, diffusion__target=target, diffusion__activation="identity")
        images, masks, _ = batch()
        signal, calls = 2 * masks - 1, []

        def network(x_t, t, image):
            calls.append(x_t)
            if len(calls) == 1:
                return 0.3 * x_t
            scales = alpha_sigma(log_snr((t.double() + 1) / config.diffusion.steps, config.diffusion), x_t)
            seen = x_t * ((scales[1] ** 2 + (scales[0] * 0.5) ** 2).sqrt() if target == "edm" else 1)
            noise = to_epsilon(signal, seen, *scales)
            return training_target(signal, noise, *scales, config.diffusion).requires_grad_()

        loss = build_experiment(config).loss(network, images, masks, generator("cpu", 0))
        assert float(loss.detach()) == pytest.approx(0, abs=1e-3)
        assert len(calls) == 2

    def test_perturbed_inputs_have_more_noise_than_their_target(self, tiny):
        images, masks, _ = batch(count=64)
        plain, perturbed = (
            tiny(diffusion__target="epsilon", diffusion__input_perturbation=amount, training__batch=64)
            for amount in (0.0, 0.5)
        )
        ((x_t, t),), ((noisier, same),) = (record_calls(config, images, masks, 0) for config in (plain, perturbed))
        assert torch.equal(t, same)
        _, sigma = alpha_sigma(log_snr((t.double() + 1) / plain.diffusion.steps, plain.diffusion), x_t)
        assert float(((noisier - x_t) / sigma).std()) == pytest.approx(0.5, abs=0.02)

    def test_the_noise_that_sampling_finds_is_scaled(self, tiny):
        """Ning et al., 2024: ε̂ is divided by a constant before x̂0 is read off."""
        images, _, noise = batch()
        found = {}
        for scale in (1.0, 1.01):
            config = tiny(
                inference__epsilon_scale=scale, inference__steps=1, inference__clip="none", diffusion__target="epsilon"
            )
            experiment = build_experiment(config)
            plan = experiment.plan(constant(0.5), images.device)
            found[scale], _ = experiment.predict(constant(0.5), images, lambda k: noise, torch.arange(4), plan)
        alpha, sigma = alpha_sigma(log_snr(torch.ones(1, dtype=torch.float64), config.diffusion), noise)
        x0 = (noise - sigma * 0.5 / 1.01) / alpha
        assert torch.allclose(found[1.01], Labels.of(config).decode(x0))
        assert not torch.allclose(found[1.01], found[1.0])

    def test_the_paper_measures_without_remedies(self, tiny):
        for experiment in ("e3", "e4"):
            config = tiny(experiment=experiment, diffusion__recycling=0.5, diffusion__input_perturbation=0.1).resolved()
            assert (config.diffusion.recycling, config.diffusion.input_perturbation) == (0, 0)


class TestSelfConditioning:
    def config(self, tiny, **more):
        return tiny(diffusion__self_conditioning=True, **more)

    def seen(self, config, run):
        """Return the second input channel of each call of a network that `run` makes."""
        found = []

        def network(x_t, t, image):
            found.append(x_t[:, 1:])
            return torch.full_like(x_t[:, :1], 0.5) + torch.zeros(1, requires_grad=True)

        run(network)
        return found

    def test_half_of_the_training_steps_get_an_estimate(self, tiny):
        config, (images, masks, _) = self.config(tiny), batch()
        calls = [
            self.seen(
                config,
                lambda network, s=s: build_experiment(config).loss(network, images, masks, generator("cpu", 0, s)),
            )
            for s in range(200)
        ]
        guided = [step for step in calls if len(step) == 2]
        assert 70 < len(guided) < 130
        for step in calls:
            assert (step[0] == 0).all()
        for step in guided:
            assert torch.allclose(step[1], torch.full_like(step[1], 0.5).tanh())
            assert not step[1].requires_grad

    @pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm-solver++"])
    def test_samplers_pass_the_last_estimate_on(self, sampler, tiny):
        config, (images, _, noise) = self.config(tiny, inference__sampler=sampler, inference__steps=4), batch()
        experiment = build_experiment(config)

        def predict(network):
            plan = experiment.plan(network, images.device)
            return experiment.predict(network, images, lambda k: noise, torch.arange(len(images)), plan)

        found = self.seen(config, predict)
        assert len(found) == 4
        assert (found[0] == 0).all()
        assert all(torch.allclose(given, torch.full_like(given, 0.5).tanh()) for given in found[1:])

    def test_an_estimate_may_come_from_a_noisier_level_as_in_sampling(self, tiny):
        config, (images, masks, _) = self.config(tiny, diffusion__estimate="noisier-level"), batch()
        found = [record_calls(config, images, masks, step) for step in range(40)]
        guided = [calls for calls in found if len(calls) == 2]
        assert 10 < len(guided) < 30
        for (first, earlier), (second, t) in guided:
            assert (earlier > t).all()
            assert (first[:, 1:] == 0).all()
            assert torch.allclose(second[:, 1:], torch.full_like(second[:, 1:], 0.5).tanh())

    def test_estimates_stay_within_the_coding(self, tiny):
        """With ε at much noise, x̂0 can be any number."""
        config, (images, masks, _) = self.config(tiny, diffusion__target="epsilon"), batch()
        t = torch.ones(4, dtype=torch.float64)
        experiment = build_experiment(config)
        noise = experiment.draw_noise(images, masks, generator("cpu", 0))
        run = lambda network: experiment.measure_errors(network, images, masks, t, noise)  # noqa: E731
        (_, given) = self.seen(config, run)
        assert given.abs().max() == 1

    @pytest.mark.parametrize("name", ["ensemdiff", "segdiff", "medsegdiff", "ambdiff"])
    def test_every_diffusion_network_accepts_it(self, name, tiny):
        settings = {"network__blocks": [1, 1]} if name == "ambdiff" else {}
        config = self.config(tiny, network__name=name, network__width=32, network__multipliers=[1, 1], **settings)
        network, (images, masks, noise) = build_network(config), batch()
        for seed in (0, 1, 2, 3):
            assert build_experiment(config).loss(network, images, masks, generator("cpu", seed)).isfinite()
        experiment = build_experiment(config)
        plan = experiment.plan(network, images.device)
        found, _ = experiment.predict(network.eval(), images, lambda k: noise, torch.arange(len(images)), plan)
        assert found.shape == masks.shape

    def test_other_experiments_do_not_use_it(self, tiny):
        for experiment in ("e1", "e3", "e4"):
            assert not self.config(tiny, experiment=experiment).diffusion.self_conditioning


@pytest.mark.parametrize("name", ["segformer", "nnunet"])
def test_feed_forward_networks_have_e1_only(name):
    with pytest.raises(ConfigError, match=f"network {name} has no e2.*only e1"):
        Config().with_leaves({"network.name": name})
    config = Config().with_leaves({"network.name": name, "experiment": "e1", "inference.ensemble": 7}).resolved()
    assert config.inference.ensemble in (1, 5)  # one prediction, or not used
