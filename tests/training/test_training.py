"""The training loop: learning, exact resume, stopping, divergence, checkpoints."""

import errno
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from test_networks import SMALL
from torch.utils._python_dispatch import TorchDispatchMode

from diffseg import data, trial
from diffseg.diffusion.schedules import SCHEDULES
from diffseg.errors import Diverged, Stopped
from diffseg.evaluation.registry import ALWAYS, MEASURES
from diffseg.training import checkpoints, execution
from diffseg.training import state as training_state
from diffseg.training.hooks import Hooks
from diffseg.training.loop import train
from diffseg.training.state import start_or_resume

GOLDEN = json.loads((Path(__file__).parent / "golden_runs.json").read_text())
EXPERIMENTS = ("e1", "e2", "e3", "e4")


def stop_at(call):
    """Return hooks that ask to stop at the given call of should_stop, which is called at every step and evaluated batch."""
    calls = itertools.count(1)
    return Hooks(should_stop=lambda: next(calls) >= call)


def weights(config, folder):
    return start_or_resume(config, folder, torch.device("cpu")).average.state_dict()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("call", [2, 4, 6, 10])  # in training, at the snapshot, after it, in the last evaluation
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit(experiment, call, tiny, tmp_path):
    config = tiny(
        experiment=experiment, data__augment__flips="symmetries", training__warmup=2, training__decay="cosine"
    )
    if experiment == "e1" and call > 6:
        pytest.skip("E1 calls should_stop six times in training and once for its only batch")
    whole = trial.run(config, None, tmp_path / "whole", device="cpu")
    with pytest.raises(Stopped, match="stopped"):
        trial.run(config, None, tmp_path / "parts", device="cpu", hooks=stop_at(call))
    assert start_or_resume(config, tmp_path / "parts", torch.device("cpu")).step >= min(call, 4)
    parts = trial.run(config, None, tmp_path / "parts", device="cpu")
    assert equal(weights(config, tmp_path / "whole"), weights(config, tmp_path / "parts"))
    assert str(parts.timesteps) == str(whole.timesteps)  # as text, since E4's mask error is NaN
    assert parts.images == whole.images
    assert parts.examples == whole.examples


def test_a_killed_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tiny, tmp_path):
    config = tiny(training__steps=7)

    def die(step, metrics):
        if step == 4:
            raise SystemExit  # nothing is saved on exit, so the last checkpoint is that of step 3

    trial.run(config, None, tmp_path / "whole", device="cpu")
    with pytest.raises(SystemExit):
        trial.run(config, None, tmp_path / "killed", device="cpu", hooks=Hooks(on_log=die))
    assert start_or_resume(config, tmp_path / "killed", torch.device("cpu")).step == 3
    trial.run(config, None, tmp_path / "killed", device="cpu")
    assert equal(weights(config, tmp_path / "whole"), weights(config, tmp_path / "killed"))


@pytest.mark.parametrize("layouts", list(itertools.permutations([torch.contiguous_format, torch.channels_last])))
def test_a_run_resumes_in_another_memory_layout(layouts, tiny, tmp_path, monkeypatch):
    """GPUs and compiled networks use another layout than CPUs, and fused optimisers need moments in that of the weights."""
    config, states = tiny(experiment="e1"), []
    monkeypatch.setattr(training_state, "training_layout", lambda config, device: layouts[len(states)])
    with pytest.raises(Stopped):
        trial.run(config, None, tmp_path, device="cpu", hooks=stop_at(4))
    for _ in layouts:
        states.append(start_or_resume(config, tmp_path, torch.device("cpu")))
    for before, after in zip(*(state.network.parameters() for state in states), strict=True):
        moments, laid = (state.optimiser.state[one] for state, one in zip(states, (before, after), strict=True))
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(moments[name], laid[name])
            assert laid[name].stride() == after.stride()
    assert any(
        one.stride() != other.stride() for one, other in zip(*(s.network.parameters() for s in states), strict=True)
    )


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ["ensemdiff", "segformer"])
def test_a_network_with_dropout_resumes_bit_for_bit(name, tiny, tmp_path):
    """Dropout and SegFormer's stochastic depth draw from torch's global generator."""
    config = tiny(experiment="e1", data__size=32, **({"network__dropout": 0.5} if name == "ensemdiff" else {}))
    if name == "segformer":
        config = config.model_copy(update={"network": SMALL[name]})
    torch.manual_seed(0)
    trial.run(config, None, tmp_path / "whole", device="cpu")
    torch.manual_seed(1)
    with pytest.raises(Stopped):
        trial.run(config, None, tmp_path / "parts", device="cpu", hooks=stop_at(3))
    trial.run(config, None, tmp_path / "parts", device="cpu")
    assert equal(weights(config, tmp_path / "whole"), weights(config, tmp_path / "parts"))


LEARNING = {  # losses that learn, or that need an estimate
    "learned": {"diffusion__weighting": "learned"},
    "adaptive": {"diffusion__density": "adaptive", "diffusion__density_decay": 0.5},
    "self-conditioning": {"diffusion__self_conditioning": True},
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("learning", LEARNING)
def test_a_run_with_a_learning_loss_resumes_bit_for_bit(learning, tiny, tmp_path):
    config = tiny(training__steps=9, **LEARNING[learning])
    whole = trial.run(config, None, tmp_path / "whole", device="cpu")
    with pytest.raises(Stopped):
        trial.run(config, None, tmp_path / "parts", device="cpu", hooks=stop_at(5))
    assert start_or_resume(config, tmp_path / "parts", torch.device("cpu")).step == 5
    parts = trial.run(config, None, tmp_path / "parts", device="cpu")
    assert equal(weights(config, tmp_path / "whole"), weights(config, tmp_path / "parts"))
    assert parts.timesteps == whole.timesteps
    assert parts.images == whole.images
    fresh = start_or_resume(config, tmp_path / "fresh", torch.device("cpu")).average.state_dict()
    learned = [key for key in fresh if key in ("uncertainty.linear.weight", "density.average")]
    assert len(learned) == (learning != "self-conditioning")
    assert not any(torch.equal(fresh[key], weights(config, tmp_path / "whole")[key]) for key in learned)


@pytest.mark.parametrize("learning", LEARNING)
def test_the_initial_weights_do_not_depend_on_what_the_loss_learns(learning, tiny, tmp_path):
    plain, other = (
        start_or_resume(tiny(**settings), tmp_path, torch.device("cpu")).network.state_dict()
        for settings in ({}, LEARNING[learning])
    )
    if learning != "self-conditioning":  # which has more inputs
        assert all(torch.equal(plain[key], other[key]) for key in plain)


CHOICES = [
    *({"schedule": name} for name in SCHEDULES),
    *({"weighting": name} for name in ("soft-min-snr", "edm", "debiased")),
    {"target": "v", "weighting": "snr+1"},  # with x0, little noise outweighs all else, and many steps are needed
    {"weighting": "learned", "training__learning_rate": 3e-3},
    {"target": "v", "weighting": "min-snr"},
    {"target": "v", "schedule": "cosine", "ends": "zero-terminal", "decoupled": True, "weighting": "sigmoid"},
    {"density": "adaptive", "density_decay": 0.9},
    {"density": "profile", "profile": ((-10.0, 1.0), (0.0, 2.0), (8.0, 1.0))},
    {"loss": "cross-entropy", "activation": "sigmoid"},
    {"loss": "dice-cross-entropy", "activation": "sigmoid"},
    {"loss": "boundary"},
    {"self_conditioning": True},
]


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "-".join(map(str, choice.values())))
def test_every_part_of_the_design_space_learns(choice, tiny, tmp_path):
    settings = {key if "__" in key else f"diffusion__{key}": value for key, value in choice.items()}
    config = tiny(**{"training__steps": 150, "training__batch": 8, "inference__steps": 5} | settings)
    outcome = trial.run(config, None, tmp_path, device="cpu")
    assert outcome.trial["iou"] > 0.3
    assert all(row["weight"] > 0 for row in outcome.timesteps)


def test_training_skips_a_damaged_checkpoint_and_resumes_from_the_one_before(tiny, tmp_path, caplog):
    config = tiny()
    trial.run(config, None, tmp_path, device="cpu")
    expected = weights(config, tmp_path)
    newest = sorted(tmp_path.glob("step-*.pt"))[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    newest.write_bytes(content)
    assert start_or_resume(config, tmp_path, torch.device("cpu")).step == 3
    assert "damaged" in caplog.text
    trial.run(config, None, tmp_path, device="cpu")
    assert equal(weights(config, tmp_path), expected)


def test_training_survives_a_disk_that_is_full_for_a_while(tiny, tmp_path, monkeypatch, caplog):
    config, full = tiny(training__steps=9, training__checkpoint_every=2), [2, 3]
    save, steps = checkpoints.save, []

    def saved(folder, step, *more, **kind):
        steps.append(step)
        return save(folder, step, *more, **kind)

    def limited(descriptor):
        if steps[-1] // 2 in full:
            raise OSError(errno.ENOSPC, "No space left on device")

    expected = trial.run(config, None, tmp_path / "whole", device="cpu")
    monkeypatch.setattr(checkpoints, "save", saved)
    monkeypatch.setattr(checkpoints.os, "fsync", limited)
    found = trial.run(config, None, tmp_path / "full", device="cpu")
    assert found.images == expected.images
    assert caplog.text.count("could not be written ([Errno 28] No space left on device)") == 2
    assert [path.name[5:13] for path in sorted((tmp_path / "full").iterdir())] == ["00000008", "00000009"]


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint"])
def test_training_starts_from_scratch_without_a_sound_checkpoint(tiny, tmp_path, damage):
    config = tiny()
    trial.run(config, None, tmp_path, device="cpu")
    for path in tmp_path.glob("step-*.pt"):
        path.write_bytes(damage)
    assert start_or_resume(config, tmp_path, torch.device("cpu")).step == 0


def test_only_the_two_newest_checkpoints_are_kept(tmp_path):
    for step in range(5):
        checkpoints.save(tmp_path, step, {"step": step, "x": torch.ones(2)})
    assert [path.name[:13] for path in sorted(tmp_path.iterdir())] == ["step-00000003", "step-00000004"]
    assert checkpoints.load(tmp_path, "cpu")["step"] == 4


def test_the_error_of_an_infinite_loss_names_the_step(tiny, tmp_path):
    config = tiny(training__steps=20, training__log_every=5)
    dataset = data.load(config.data, None)
    state = start_or_resume(config, tmp_path, torch.device("cpu"))
    steps = iter(range(100))
    state.network.register_forward_hook(lambda *call: call[-1] * (float("nan") if next(steps) == 7 else 1.0))
    with pytest.raises(Diverged, match=r"nan at step 8\b.*learning_rate"):
        train(config, dataset.train, state, tmp_path, lambda state: [], ())


def test_the_error_of_an_infinite_gradient_names_the_step_which_is_not_saved(tiny, tmp_path):
    """The step is the last one, so that its gradient shows in no later loss."""
    config = tiny(training__steps=4, training__log_every=50)
    dataset = data.load(config.data, None)
    state = start_or_resume(config, tmp_path, torch.device("cpu"))
    steps = itertools.count(1)
    weight = next(state.network.parameters())
    weight.register_hook(lambda gradient: gradient * (math.inf if next(steps) == 4 else 1.0))
    with pytest.raises(Diverged, match=r"the norm of the gradient is (inf|nan) at step 4\b.*learning_rate"):
        train(config, dataset.train, state, tmp_path, lambda state: [], ())
    assert {path.name[:13] for path in tmp_path.glob("step-*.pt")} == {"step-00000003"}


def test_a_diverged_network_is_not_measured(tiny, tmp_path):
    """The loss of step 2 is NaN, and no point of the learning curve is due before the measurement after step 3."""
    config = tiny(training__steps=6, training__log_every=50, training__checkpoint_every=50)
    dataset = data.load(config.data, None)
    state = start_or_resume(config, tmp_path, torch.device("cpu"))
    steps = itertools.count(1)
    state.network.register_forward_hook(lambda *call: call[-1] * (math.nan if next(steps) == 2 else 1.0))
    measured = []
    with pytest.raises(Diverged, match=r"the loss is nan at step 2\b"):
        train(config, dataset.train, state, tmp_path, lambda state: measured.append(state) or [], {3})
    assert not measured
    assert not list(tmp_path.glob("step-*.pt"))


def test_no_training_step_waits_for_the_device_between_points_of_the_curve(tiny, tmp_path):
    """No number is read from a tensor until a point is logged."""
    waiting = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.__name__.split(".")[0] in (
                "_local_scalar_dense",
                "nonzero",
                "masked_select",
                "equal",
                "unique",
            ):
                waiting.append(function.__name__)
            return function(*args, **(kwargs or {}))

    def should_stop():
        """Note what has waited so far: it is called after each step, before a point is logged."""
        seen.append(list(waiting))
        return False

    config, seen = tiny(training__steps=4, training__log_every=50, training__checkpoint_every=50), []
    dataset = data.load(config.data, None)
    state = start_or_resume(config, tmp_path, torch.device("cpu"))
    with Watch():
        train(config, dataset.train, state, tmp_path, lambda state: [], (), Hooks(should_stop=should_stop))
    assert seen == [[]] * 4


@pytest.mark.parametrize(("ema", "near"), [(0.0, True), (0.9, False)])
def test_the_average_follows_the_weights(ema, near, tiny, tmp_path):
    config = tiny(training__ema=ema, training__steps=30)
    with pytest.raises(Stopped):  # before the end, which leaves the average alone
        trial.run(config, None, tmp_path, device="cpu", hooks=stop_at(29))
    state = start_or_resume(config, tmp_path, torch.device("cpu"))
    assert equal(state.network.state_dict(), state.average.state_dict()) == near


def test_learning_rate_rises_and_falls(tiny, tmp_path):
    config = tiny(training__steps=8, training__warmup=4, training__decay="cosine", training__log_every=1)
    curves = trial.run(config, None, tmp_path, device="cpu").curves
    rates = [row["value"] for row in curves if row["metric"] == "learning_rate"]
    assert rates[:4] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])
    assert rates[4] == pytest.approx(1e-3)
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_golden_runs(experiment, tiny, tmp_path):
    """Tiny runs reproduce their recorded losses and errors, so that a change of numbers is noticed.

    The tolerance allows for float32 sums in another order on another CPU.
    """
    outcome = trial.run(tiny(experiment=experiment), None, tmp_path, device="cpu")
    losses = [row["value"] for row in outcome.curves if row["metric"] == "loss"]
    assert losses == pytest.approx(GOLDEN[experiment]["losses"], rel=2e-3)
    assert [row["loss"] for row in outcome.timesteps] == pytest.approx(GOLDEN[experiment]["timesteps"], rel=1e-2)
    if "brier" in GOLDEN[experiment]:
        assert outcome.trial["brier"] == pytest.approx(GOLDEN[experiment]["brier"], rel=1e-2)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_learns(experiment, tiny, tmp_path):
    config = tiny(experiment=experiment, training__steps=60, training__batch=8, training__log_every=10)
    outcome = trial.run(config, None, tmp_path, device="cpu")
    losses = [row["value"] for row in outcome.curves if row["metric"] == "loss"]
    assert losses[-1] < 0.6 * losses[0]
    if experiment in ("e1", "e2"):
        assert outcome.trial["iou"] > 0.3
        single = {name for name, metric in MEASURES.items() if not metric.pooled and metric.applies is ALWAYS}
        assert {row["metric"] for row in outcome.images} == single | {"objects"}
        assert len(outcome.images) == 4 * len(single | {"objects"})
        assert {row["image"] for row in outcome.calibration} == {row["image"] for row in outcome.images}
        assert sum(row["count"] for row in outcome.calibration) == 4 * 16 * 16
        assert {row["kind"] for row in outcome.examples} == {"image", "truth", "mean", "sd"}
    else:
        assert "iou" not in outcome.trial
    steps = {row["step"] for row in outcome.timesteps}
    assert steps == (set() if experiment == "e1" else {45, 60})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "precision", "near", "compiled_as_on"),
    [
        ("e1", "float32", 1e-3, "cpu"),
        ("e2", "bf16", 2e-2, "cpu"),
        ("e3", "float32", 1e-3, "cpu"),
        ("e2", "float32", 1e-3, "cuda"),
    ],
)
def test_a_compiled_training_equals_the_eager_one_but_for_rounding_and_resumes_bit_for_bit(
    experiment, precision, near, compiled_as_on, tiny, tmp_path, monkeypatch
):
    compile_network = execution._compile
    monkeypatch.setattr(
        execution, "_compile", lambda network, device: compile_network(network, torch.device(compiled_as_on))
    )
    settings = {"experiment": experiment, "data__size": 32, "training__steps": 9, "training__precision": precision}
    settings["inference__batch"] = 4  # 8 samples make whole batches, which are compiled
    eager, compiled = tiny(training__compile=False, **settings), tiny(training__compile=True, **settings)
    expected = trial.run(eager, None, tmp_path / "eager", device="cpu")
    whole = trial.run(compiled, None, tmp_path / "whole", device="cpu")
    with pytest.raises(Stopped):
        trial.run(compiled, None, tmp_path / "parts", device="cpu", hooks=stop_at(5))
    parts = trial.run(compiled, None, tmp_path / "parts", device="cpu")
    assert (parts.images, parts.timesteps) == (whole.images, whole.timesteps)
    assert whole.trial["compiled"]
    assert equal(weights(compiled, tmp_path / "whole"), weights(compiled, tmp_path / "parts"))
    for name in ("loss", "gradient_norm"):
        recorded = [[row["value"] for row in found.curves if row["metric"] == name] for found in (whole, expected)]
        assert recorded[0] == pytest.approx(recorded[1], rel=near)
    if experiment != "e3":
        assert whole.trial["brier"] == pytest.approx(expected.trial["brier"], rel=near)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALL))
@pytest.mark.parametrize("experiment", ["e1", "e2"])
def test_two_hundred_steps_in_bf16_yield_no_nan(name, experiment, tiny, tmp_path, monkeypatch):
    """It is tested on CPUs without bf16, too, where it is slow."""
    if name == "segformer" and experiment == "e2":
        pytest.skip("feed-forward")
    monkeypatch.setattr("diffseg.training.execution.has_bf16", lambda device: True)
    config = tiny(
        experiment=experiment,
        data__size=32,
        diffusion__target="epsilon",
        diffusion__variance="learned",
        training__steps=200,
        training__log_every=20,
        training__precision="bf16",
    ).model_copy(update={"network": SMALL[name]})
    outcome = trial.run(config, None, tmp_path, device="cpu")
    losses = [row["value"] for row in outcome.curves if row["metric"] == "loss"]
    assert losses[-1] < losses[0]
    assert all(p.isfinite().all() for p in start_or_resume(config, tmp_path, torch.device("cpu")).network.parameters())
