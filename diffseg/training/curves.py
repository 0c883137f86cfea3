"""Learning curves: what is recorded of every training step, and the check that training has not diverged."""

import math

import torch

from diffseg.errors import Diverged


class StepRecords:
    """The loss and gradient norm of each step since the last point of the learning curves, kept on the device.

    The host waits for the device when it reads them, so it reads all of them at once, when a point is logged.
    """

    def __init__(self, capacity: int, device: torch.device):
        """Make room for `capacity` steps on the device."""
        self._values = torch.zeros(2, capacity, device=device)
        self._count = 0

    def add(self, loss: torch.Tensor, norm: torch.Tensor) -> None:
        """Record one step's loss [] and gradient norm []. The host does not wait."""
        self._values[0, self._count] = loss
        self._values[1, self._count] = norm
        self._count += 1

    def read(self, step: int) -> dict[str, float]:
        """Return the mean loss and the last gradient norm of the steps that end at `step`, and clear the records.

        Raises:
            Diverged: See `check`.
        """
        losses, norms = self.check(step)
        self._count = 0
        return {"loss": sum(losses) / len(losses), "gradient_norm": norms[-1]}

    def check(self, step: int) -> tuple[list[float], list[float]]:
        """Return the losses and gradient norms of the steps that end at `step`, if all of them are finite.

        Raises:
            Diverged: A loss or gradient norm is not finite; the message names the first such step.
        """
        losses, norms = self._values[:, : self._count].tolist()
        for number, (loss, norm) in enumerate(zip(losses, norms, strict=True), step - self._count + 1):
            if not math.isfinite(loss):
                raise Diverged(
                    f"the loss is {loss} at step {number}: "
                    "lower training.learning_rate, set training.clip=1, or check the images for constant or extreme values"
                )
            if not math.isfinite(norm):
                raise Diverged(
                    f"the norm of the gradient is {norm} at step {number}: "
                    "lower training.learning_rate, or check the images for constant or extreme values"
                )
        return losses, norms
