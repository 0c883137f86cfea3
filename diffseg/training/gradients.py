"""The gradients of one batch, in parts where memory is short, summed over the workers."""

import logging

import torch
from torch import nn

from diffseg.config import Config
from diffseg.errors import UserError
from diffseg.experiments import Experiment
from diffseg.randomness import seed_of
from diffseg.training.execution import autocast
from diffseg.training.parallel import Workers, is_out_of_memory, normalises_over_batches
from diffseg.training.state import TrainingState

log = logging.getLogger(__name__)


def compute_gradients(
    objective: Experiment,
    network: nn.Module,
    state: TrainingState,
    images: torch.Tensor,
    masks: torch.Tensor,
    config: Config,
    workers: Workers,
) -> torch.Tensor | None:
    """Leave the gradients of the batch's mean loss in the network's parameters, and return that loss [].

    Returns None if a part did not fit into memory. The micro-batch is then halved, and the step is to be tried again.

    Args:
        objective: The experiment, whose loss is minimised.
        network: The state's network, compiled or not.
        state: The training; its micro_batch is the size of the parts.
        images: [B, C, S, S], the whole batch on every worker.
        masks: [B, 1, S, S].
        config: The trial's configuration.
        workers: The processes that train together, each with a share of the batch.

    Raises:
        UserError: A part cannot be made smaller and does not fit into memory.
    """
    batch = len(images)
    total, problem = torch.zeros((), device=images.device), None
    draw = torch.Generator(images.device)
    try:
        for part in workers.parts(batch, state.micro_batch):
            seed_draws(draw, config, state.step, part)
            total += backpropagate(objective, network, images, masks, draw, part, config)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        problem = str(error).split("\n")[0]
    (short,) = workers.any(problem is not None)
    if short:
        _halve_micro_batch(state, config, problem or "on another worker")
        objective.discard_losses(network)
        return None
    workers.all_reduce([total, *(one.grad for one in network.parameters() if one.grad is not None)])
    return total


def seed_draws(draw: torch.Generator, config: Config, step: int, part: slice) -> None:
    """Seed the loss's generator, and torch's global ones for dropout and stochastic depth, for a part of a step's batch."""
    draw.manual_seed(seed_of(config.seed, "noise", step))
    torch.manual_seed(seed_of(config.seed, "dropout", step, part.start))


def backpropagate(
    objective: Experiment,
    network: nn.Module,
    images: torch.Tensor,
    masks: torch.Tensor,
    draw: torch.Generator,
    part: slice,
    config: Config,
) -> torch.Tensor:
    """Add a part's gradients to the parameters'; return its share [] of the batch's mean loss."""
    with autocast(config, images.device):
        loss = objective.loss(network, images, masks, draw, part)
    loss = loss * ((part.stop - part.start) / len(images))
    loss.backward()
    share: torch.Tensor = loss.detach()
    return share


def _halve_micro_batch(state: TrainingState, config: Config, problem: str) -> None:
    """Halve the number of images per pass, drop the gradients and free the memory.

    Raises:
        UserError: It is one image already, or the network normalises over its batch.
    """
    if state.micro_batch == 1 or normalises_over_batches(state.network):
        size = (
            "one image"
            if state.micro_batch == 1
            else f"{state.micro_batch}, over which {config.network.name} normalises"
        )
        raise UserError(
            f"out of memory at step {state.step + 1} with a batch of {size} ({problem}): lower data.size or training.batch, "
            "take a smaller network, or give the trial more memory (--gpus 1, fewer trials side by side by --concurrency)"
        )
    state.micro_batch = -(-state.micro_batch // 2)
    log.warning("out of memory (%s): training continues with %d images at once", problem, state.micro_batch)
    state.optimiser.zero_grad(set_to_none=True)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.cuda.empty_cache()
