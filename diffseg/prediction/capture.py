"""Calls of a function of tensors, replayed as CUDA graphs."""

import logging
from collections import Counter
from collections.abc import Callable

import torch

from diffseg.training.parallel import is_out_of_memory

log = logging.getLogger(__name__)

Tensors = tuple[torch.Tensor, ...]
Shapes = tuple[torch.Size, ...]


class CapturedCalls:
    """A function of tensors whose kernels are launched at once, so that small networks do not wait for the host.

    The first call with inputs of some shapes runs eagerly, the second one is captured as a CUDA graph, and it and all
    later ones are replayed. What a replay returns is overwritten by the next one. The function must depend on its inputs
    alone, and must not wait for the device. Where memory is too short for a graph, calls run eagerly.
    """

    def __init__(self, function: Callable[..., Tensors], device: torch.device):
        """Capture the calls of `function` on a CUDA device."""
        self.function, self.device = function, device
        self.calls: Counter[Shapes] = Counter()
        self.graphs: dict[Shapes, tuple[torch.cuda.CUDAGraph, Tensors, Tensors]] = {}  # with static inputs and outputs
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.fits = True

    def __call__(self, *inputs: torch.Tensor) -> Tensors:
        """Return what the function returns."""
        shapes = tuple(tensor.shape for tensor in inputs)
        self.calls[shapes] += 1
        if not self.fits or self.calls[shapes] == 1:
            return self._run_eagerly(inputs)
        if shapes not in self.graphs:
            try:
                self.graphs[shapes] = self._capture(inputs)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                log.warning("memory is too short to capture the prediction: it continues eagerly")
                self.fits = False
                self.graphs.clear()
                torch.cuda.empty_cache()
                return self._run_eagerly(inputs)
        graph, static, outputs = self.graphs[shapes]
        for place, tensor in zip(static, inputs, strict=True):
            place.copy_(tensor)
        graph.replay()
        return outputs

    def _run_eagerly(self, inputs: Tensors) -> Tensors:
        """Run the function on a stream of its own, as captures need it of the calls before them."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            outputs = self.function(*inputs)
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        return outputs

    def _capture(self, inputs: Tensors) -> tuple[torch.cuda.CUDAGraph, Tensors, Tensors]:
        """Record a call on copies of the inputs. Nothing is computed yet."""
        static, graph = tuple(tensor.clone() for tensor in inputs), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            outputs = self.function(*static)
        return graph, static, outputs
