"""One optimiser step: eagerly, or replayed as a CUDA graph."""

import logging
import math
from collections.abc import Callable

import torch
from torch import nn

from diffseg.config import Config
from diffseg.experiments import Experiment
from diffseg.randomness import seed_of
from diffseg.training.execution import compile_for_training, training_execution
from diffseg.training.gradients import backpropagate, compute_gradients, seed_draws
from diffseg.training.parallel import Workers, is_out_of_memory
from diffseg.training.state import TrainingState

log = logging.getLogger(__name__)
WARM_UP = 3  # eager steps before a capture, in which libraries and the optimiser allocate what they keep

Outcome = tuple[torch.Tensor, torch.Tensor]  # the batch's mean loss [] and the norm [] of its gradients before clipping
Step = Callable[[torch.Tensor, torch.Tensor], Outcome | None]  # of images [B, C, S, S] and masks [B, 1, S, S]


def choose_step(
    objective: Experiment, state: TrainingState, config: Config, device: torch.device, workers: Workers
) -> Step:
    """Return the function that runs one step of the training `state` and changes it in place, but for its step count.

    The function returns None if memory was too short: the micro-batch is then halved, and the step is to be tried again.
    """
    eager = EagerStep(objective, state, config, device, workers)
    state.execution = training_execution(config, device, workers.count)
    return GraphStep(eager) if state.execution == "graph" else eager


class EagerStep:
    """A step that launches its kernels one by one, or that runs a compiled network."""

    def __init__(
        self,
        objective: Experiment,
        state: TrainingState,
        config: Config,
        device: torch.device,
        workers: Workers,
    ):
        """Compile the network if the configuration says so."""
        self.objective, self.state, self.config, self.workers = objective, state, config, workers
        self.network = compile_for_training(state.network, config, device)

    def __call__(self, images: torch.Tensor, masks: torch.Tensor) -> Outcome | None:
        """Run the step of number `state.step`."""
        self.state.optimiser.zero_grad(set_to_none=True)
        loss = compute_gradients(self.objective, self.network, self.state, images, masks, self.config, self.workers)
        if loss is None:
            return None
        norm = self.update()
        self.objective.learn_from_losses(self.state.network, self.workers)
        return loss, norm

    def update(self) -> torch.Tensor:
        """Clip the gradients, change the weights, and return the gradients' norm before clipping."""
        norm = nn.utils.clip_grad_norm_(self.state.network.parameters(), self.config.training.clip or math.inf)
        self.state.optimiser.step()
        return norm


class GraphStep:
    """A step that replays CUDA graphs: its kernels are launched at once, so that small networks do not wait for the host.

    The first WARM_UP steps run eagerly, the next one of each kind is captured. A graph copies its batch from static
    tensors. It draws from generators that are registered with it and seeded by the step before every replay, so that it
    draws what an eager step draws, and its results are the same bit for bit. Steps whose computation depends on the host
    (self-conditioning) have a graph each. Where memory is too short for a whole batch or for a graph, steps run eagerly.
    """

    def __init__(self, eager: EagerStep):
        """Capture the steps of `eager`, once they are warm."""
        self.eager, self.device = eager, next(eager.state.network.parameters()).device
        self.draw = torch.Generator(self.device)
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, Outcome]] = {}
        self.inputs: tuple[torch.Tensor, torch.Tensor] | None = None
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.eager_steps = 0

    def __call__(self, images: torch.Tensor, masks: torch.Tensor) -> Outcome | None:
        """Run the step of number `state.step`."""
        state, config = self.eager.state, self.eager.config
        if state.micro_batch < len(images):
            state.execution = "eager"
        if state.execution == "eager" or self.eager_steps < WARM_UP:
            return self._run_eagerly(images, masks)
        if self.inputs is None:
            self.inputs = images.clone(), masks.clone()
        if self.inputs[0].shape != images.shape:
            return self._run_eagerly(images, masks)
        for static, tensor in zip(self.inputs, (images, masks), strict=True):
            static.copy_(tensor)
        whole = slice(0, len(images))
        seed_draws(self.draw, config, state.step, whole)
        kind = self.eager.objective.computation(seed_of(config.seed, "noise", state.step))
        if kind not in self.graphs:
            try:
                self.graphs[kind] = self._capture(whole)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                log.warning("memory is too short to capture the step: training continues eagerly")
                state.execution = "eager"
                self.eager.objective.discard_losses(state.network)
                self.graphs.clear()
                torch.cuda.empty_cache()
                return self._run_eagerly(images, masks)
        graph, outcome = self.graphs[kind]
        graph.replay()
        return outcome

    def _run_eagerly(self, images: torch.Tensor, masks: torch.Tensor) -> Outcome | None:
        """Run the step on a stream of its own, as captures need it of the steps before them."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            outcome = self.eager(images, masks)
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        self.eager_steps += outcome is not None
        return outcome

    def _capture(self, whole: slice) -> tuple[torch.cuda.CUDAGraph, Outcome]:
        """Record the step on the static inputs. Nothing is computed yet."""
        assert self.inputs is not None
        eager, graph = self.eager, torch.cuda.CUDAGraph()
        graph.register_generator_state(self.draw)
        with torch.cuda.graph(graph, pool=self.pool):
            eager.state.optimiser.zero_grad(set_to_none=True)
            loss = backpropagate(eager.objective, eager.network, *self.inputs, self.draw, whole, eager.config)
            norm = eager.update()
            eager.objective.learn_from_losses(eager.state.network, eager.workers)
        return graph, (loss, norm)
