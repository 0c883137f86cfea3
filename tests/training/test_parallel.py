"""Training on several workers, and in parts where memory is short, equals training on whole batches by one worker."""

import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import TINY
from test_networks import SMALL

from diffseg import experiments, trial
from diffseg.config import Config, NNUNet
from diffseg.errors import Diverged, Stopped, UserError, WorkerLost
from diffseg.training.hooks import Hooks
from diffseg.training.parallel import SINGLE_PROCESS, Workers, is_out_of_memory
from diffseg.training.state import start_or_resume

CPU = torch.device("cpu")
SETTINGS = {
    "e1": {"experiment": "e1", "training.validation": 0.25},
    "e2": {"experiment": "e2", "training.evaluations": [0.5]},
    "e3": {"experiment": "e3", "diffusion.density": "adaptive", "diffusion.density_decay": 0.5},
    "learned": {"experiment": "e2", "diffusion.weighting": "learned", "diffusion.self_conditioning": True},
    "fingerprint": {"experiment": "e2", "diffusion.weighting": "fingerprint"},
}
WORKERS = 2


def of(name, **more):
    batch = {"training.batch": 5}  # which two workers cannot halve
    return Config().with_leaves(TINY | batch | SETTINGS[name] | more).resolved()


def weights(config, folder):
    return start_or_resume(config, folder, CPU).average.state_dict()


def close(one, other):
    """Return whether weights agree. A few may differ by more: rounding turns the sign of gradients near 0, which Adam scales up."""
    apart = torch.cat([(one[key] - other[key]).abs().flatten() for key in one])
    return apart.mean() < 2e-6 and (apart > 2e-5).float().mean() < 0.003


def run_worker(rank, folder, task):
    """Run the task in a process that trains with others."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=WORKERS)
    task(Workers.from_process_group(), Path(folder))
    if dist.is_initialized():
        dist.destroy_process_group()


def run_on_workers(task, folder) -> list[int]:
    """Run the task in several processes and return their exit codes."""
    context = multiprocessing.get_context("spawn")
    found = [context.Process(target=run_worker, args=(rank, str(folder), task)) for rank in range(WORKERS)]
    for process in found:
        process.start()
    for process in found:
        process.join(120)
    return [process.exitcode for process in found]


def train_all(workers, folder):
    for name in SETTINGS:
        outcome = trial.run(of(name), None, folder / name / str(workers.rank), device="cpu", workers=workers)
        assert (outcome is None) == (workers.rank > 0)
        assert outcome is None or outcome.trial["micro_batch"] == 3
        assert workers.is_first or not (folder / name / str(workers.rank)).exists()


@pytest.mark.slow
def test_two_workers_train_the_same_network_as_one(tmp_path):
    assert run_on_workers(train_all, tmp_path) == [0, 0]
    for name in SETTINGS:
        alone = trial.run(of(name), None, tmp_path / "alone" / name, device="cpu")
        assert alone.trial["micro_batch"] == 5
        assert close(weights(of(name), tmp_path / name / "0"), weights(of(name), tmp_path / "alone" / name)), name


def end_in_many_ways(workers, folder):
    config, mine = of("e2", **{"training.snapshots": [0.5, 1.0]}), folder / str(workers.rank)

    def stop_at(number):
        calls = iter(range(1000))
        return Hooks(should_stop=lambda: next(calls) >= number) if workers.is_first else Hooks()

    for number in (2, 4):  # in training, and while the network is measured
        with pytest.raises(Stopped):
            trial.run(config, None, mine, device="cpu", hooks=stop_at(number), workers=workers)
    trial.run(config, None, mine, device="cpu", workers=workers)
    with pytest.raises(UserError, match="only worker 1 lacks it"):
        workers.run_on_all(lambda: fail_on(workers, 1))
    diverging = {"training.learning_rate": 1e38, "diffusion.activation": "identity"}
    with pytest.raises(Diverged):
        trial.run(of("e2", **diverging), None, mine / "diverging", device="cpu", workers=workers)
    with pytest.raises(UserError, match="normalises over batches, which 2 workers would split"):
        trial.run(normalising(), None, mine / "batches", device="cpu", workers=workers)
    with pytest.raises(UserError, match="nnunet trains on one worker, not on 2: give --workers 1"):
        trial.run(normalising("nnunet"), None, mine / "nnunet", device="cpu", workers=workers)
    if not workers.is_first:
        workers.shutdown()
        return
    with pytest.raises(WorkerLost, match="another of the 2 workers is gone"):
        workers.any(False)


def fail_on(workers, rank):
    if workers.rank == rank:
        raise UserError(f"only worker {rank} lacks it")


def normalising(name="segformer"):
    network = {"segformer": SMALL["segformer"], "nnunet": NNUNet()}[name]
    return of("e1", **{"data.size": 32}).model_copy(update={"network": network})


@pytest.mark.slow
def test_all_workers_end_in_the_same_way(tmp_path):
    assert run_on_workers(end_in_many_ways, tmp_path) == [0, 0]
    config = of("e2", **{"training.snapshots": [0.5, 1.0]})
    trial.run(config, None, tmp_path / "alone", device="cpu")
    last = [start_or_resume(config, tmp_path / name, CPU).curves[-3:] for name in ("0", "alone")]
    for mine, alone in zip(*last, strict=True):
        assert mine == alone | {"value": pytest.approx(alone["value"], rel=1e-3)}
    assert close(weights(config, tmp_path / "0"), weights(config, tmp_path / "alone"))


@pytest.fixture
def memory(monkeypatch):
    """Return (a function that sets how many images fit into memory at once, the list of the numbers that were tried)."""
    tried, limit, loss = [], [1000], {kind: kind.loss for kind in (experiments.Denoising, experiments.FeedForward)}

    def measured(self, network, images, masks, draw, part=experiments.WHOLE_BATCH):
        found, count = loss[type(self)](self, network, images, masks, draw, part), len(images[part])
        if network.training:
            tried.append(count)
            if count > limit[0]:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return found

    for kind in loss:
        monkeypatch.setattr(kind, "loss", measured)
    return lambda images: limit.__setitem__(0, images), tried


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", SETTINGS)
def test_batches_are_computed_in_parts_where_memory_is_short(name, memory, tmp_path):
    trial.run(of(name), None, tmp_path / "whole", device="cpu")
    fits, tried = memory
    fits(2)
    tried.clear()
    outcome = trial.run(of(name), None, tmp_path / "parts", device="cpu")
    assert outcome.trial["micro_batch"] == 2
    assert tried[:6] == [5, 3, 2, 2, 1, 2]
    assert close(weights(of(name), tmp_path / "parts"), weights(of(name), tmp_path / "whole"))


def test_a_resumed_training_remembers_how_many_images_fit(memory, tmp_path):
    fits, tried = memory
    fits(1)
    with pytest.raises(Stopped):
        trial.run(of("e2"), None, tmp_path, device="cpu", hooks=Hooks(should_stop=lambda: True))
    tried.clear()
    trial.run(of("e2"), None, tmp_path, device="cpu")
    assert set(tried) == {1}


def test_a_single_image_that_does_not_fit_fails_with_a_sentence(memory, tmp_path):
    fits, _ = memory
    fits(0)
    with pytest.raises(
        UserError, match=r"out of memory at step 1 with a batch of one image .*20.00 MiB.*lower data.size"
    ):
        trial.run(of("e2"), None, tmp_path, device="cpu")
    with pytest.raises(UserError, match="with a batch of 5, over which segformer normalises"):
        trial.run(normalising(), None, tmp_path / "batches", device="cpu")


def test_out_of_memory_is_distinguished_from_other_errors():
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**60)
    assert is_out_of_memory(found.value)
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))


def test_each_image_of_a_batch_is_in_exactly_one_part():
    for count in (1, 2, 3, 7):
        for most in (1, 2, 5):
            parts = [
                part for rank in range(count) for part in replace(SINGLE_PROCESS, rank=rank, count=count).parts(5, most)
            ]
            assert [image for part in parts for image in range(5)[part]] == list(range(5))
            assert all(part.stop - part.start <= most for part in parts)
