"""Data-parallel training: the processes that train one network together, each on a share of every batch.

DistributedDataParallel is not used: it wraps the network's forward pass, but losses here also call other parts of the
network. Like it, `Workers` sums the gradients, all of them in one all-reduce after the backward pass.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn

from diffseg.errors import UserError, WorkerLost

T = TypeVar("T")
MEASUREMENT_TIMEOUT = timedelta(days=1)  # how long the other workers wait while the first one measures


@dataclass(frozen=True)
class Workers:
    """The processes that train one network together. The first one also measures and writes files.

    A single process needs no torch.distributed: every method then returns its argument or does nothing. With several,
    all of them must call the same methods in the same order. Every method raises WorkerLost if a worker is gone.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def from_process_group(cls) -> "Workers":
        """Return the workers of torch.distributed's default group, or a single one without a group."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that measures and writes."""
        return self.rank == 0

    def parts(self, batch: int, most: int) -> list[slice]:
        """Return this worker's share of a batch, cut into slices of at most `most` images."""
        start, end = batch * self.rank // self.count, batch * (self.rank + 1) // self.count
        return [slice(first, min(first + most, end)) for first in range(start, end, most)]

    def largest_share(self, batch: int) -> int:
        """Return the largest number of images of a batch that any worker gets."""
        return -(-batch // self.count)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether it is set on any worker. Runs between CPUs, so no GPU is waited for."""
        if self.count == 1:
            return flags
        combined = torch.tensor(flags, dtype=torch.uint8)
        self._collective(lambda: dist.all_reduce(combined, dist.ReduceOp.MAX, self._cpu_group))
        return tuple(combined.bool().tolist())

    def broadcast(self, value: T) -> T:
        """Return the first worker's value on all workers. What the others pass is ignored."""
        if self.count == 1:
            return value
        values = [value]
        self._collective(lambda: dist.broadcast_object_list(values, 0, self._cpu_group))
        return values[0]

    def run_on_all(self, action: Callable[[], T]) -> T:
        """Run the action on every worker and return its own result. A UserError on one worker is raised on all."""
        if self.count == 1:
            return action()
        result: T | None = None
        problem: str | None = None
        problems: list[str | None] = [None] * self.count
        try:
            result = action()
        except UserError as error:
            problem = str(error)
        self._collective(lambda: dist.all_gather_object(problems, problem, self._cpu_group))
        if first := next(filter(None, problems), None):
            raise UserError(first)
        return cast(T, result)

    def all_reduce(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace each tensor by its sum over the workers, in place. All workers get the same bits."""
        if self.count == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        self._collective(lambda: dist.all_reduce(flat))
        for tensor, total in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def gather(self, values: torch.Tensor, batch: int) -> torch.Tensor:
        """Return the values [B] of the whole batch on all workers, given each worker's share of them."""
        if self.count == 1:
            return values
        whole = values.new_zeros(batch)
        whole[self.parts(batch, batch)[0]] = values
        self._collective(lambda: dist.all_reduce(whole))
        return whole

    def shutdown(self) -> None:
        """Leave the process group. A worker that still waits for this one then raises WorkerLost."""
        if self.count > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @cached_property
    def _cpu_group(self) -> dist.ProcessGroup:
        """A group over CPUs beside the default one, which may be over GPUs. Its timeout allows for measurements."""
        return cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=MEASUREMENT_TIMEOUT))

    def _collective(self, action: Callable[[], object]) -> None:
        """Run an operation of all workers together. Raises WorkerLost if it fails.

        torch reports a lost connection and a timeout as RuntimeError. The operations have no other cause to fail, since
        every worker calls them in the same order with the same shapes.
        """
        try:
            action()
        except RuntimeError as error:
            raise WorkerLost(f"another of the {self.count} workers is gone ({error})") from error


SINGLE_PROCESS = Workers()


def normalises_over_batches(network: nn.Module) -> bool:
    """Return whether an image's output depends on the other images of its batch, so that batches cannot be split."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a GPU or in this process."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
