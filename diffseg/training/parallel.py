"""One training over several processes, each with a part of every batch; and parts done one by one where memory is short.

Not DistributedDataParallel, which wraps the network's forward pass alone: losses here call more of it than that. What is
added up is the same, the gradients, in one piece after the backward pass.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from diffseg.errors import UserError, WorkerLost

T = TypeVar("T")
WAITING = timedelta(days=1)  # for which the others wait while the first worker measures


@dataclass(frozen=True)
class Workers:
    """The processes that train together, of which the first one measures and writes. One alone needs no torch.distributed.

    All raise WorkerLost if one of them is gone.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def joined(cls) -> "Workers":
        """Those of torch.distributed's default group, if this process is in one."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        return self.rank == 0

    def parts(self, batch: int, most: int) -> list[slice]:
        """This worker's share of a batch, in parts of at most so many images."""
        start, end = batch * self.rank // self.count, batch * (self.rank + 1) // self.count
        return [slice(first, min(first + most, end)) for first in range(start, end, most)]

    def share(self, batch: int) -> int:
        """The most images of a batch that a worker has."""
        return -(-batch // self.count)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Whether any worker says so, of each flag. Between processors: nothing waits for a GPU."""
        if self.count == 1:
            return flags
        told = torch.tensor(flags, dtype=torch.uint8)
        self._collective(lambda: dist.all_reduce(told, dist.ReduceOp.MAX, self._processors))
        return tuple(told.bool().tolist())

    def told(self, word: T) -> T:
        """What the first worker says, which only it needs to know."""
        if self.count == 1:
            return word
        words = [word]
        self._collective(lambda: dist.broadcast_object_list(words, 0, self._processors))
        return words[0]

    def united(self, action: Callable[[], T]) -> T:
        """Do something on all workers; a UserError of one is raised by all of them."""
        if self.count == 1:
            return action()
        found, problem, problems = None, None, [None] * self.count
        try:
            found = action()
        except UserError as error:
            problem = str(error)
        self._collective(lambda: dist.all_gather_object(problems, problem, self._processors))
        if worst := next(filter(None, problems), None):
            raise UserError(worst)
        return found

    def add_up(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace the tensors of all workers by their sums, which are the same bits for each of them."""
        if self.count == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        self._collective(lambda: dist.all_reduce(flat))
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def together(self, values: torch.Tensor, batch: int) -> torch.Tensor:
        """[B] of the whole batch, of which each worker has its part."""
        if self.count == 1:
            return values
        whole = values.new_zeros(batch)
        whole[self.parts(batch, batch)[0]] = values
        self._collective(lambda: dist.all_reduce(whole))
        return whole

    def leave(self) -> None:
        """Do no more together: whoever still waits for this worker learns that it is gone."""
        if self.count > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @cached_property
    def _processors(self) -> dist.ProcessGroup:
        """A group beside the default one, which may be of GPUs. It waits while the first worker measures."""
        return dist.new_group(backend="gloo", timeout=WAITING)

    def _collective(self, action: Callable[[], object]) -> None:
        try:
            action()
        except RuntimeError as error:
            raise WorkerLost(f"another of the {self.count} workers is gone ({error})") from error


ALONE = Workers()


def normalises_over_batches(network: nn.Module) -> bool:
    """Whether what it makes of an image depends on the others of the batch, so that parts of one are not the whole."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def is_out_of_memory(error: BaseException) -> bool:
    """Of a GPU, or of what the system lets this process have."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
