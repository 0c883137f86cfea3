"""The speed of this machine, measured once and kept in the user's cache folder.

Processor time is measured, by a single thread: a machine that is busy with other work has the same speed, and `plan` the same
answer.
"""

import contextlib
import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

NAME = "speed.json"
GPU_FLOPS = (5e12, 1e14)  # a second; guesses, since a GPU is not used before a trial is
STARTS = (2.0, 20.0)  # seconds that a trial takes besides its computing: the start of its process, and reading its data
ROUNDS = 6  # of a measurement; the fastest counts
LAYERS = ((32, 16, 4), (64, 32, 8))  # channels, side in px and batch of a small layer and of a large one


@dataclass(frozen=True)
class Speed:
    """Floating-point operations a second that networks reach, from small layers to large ones."""

    slow: float
    fast: float

    def seconds(self, flops: float) -> tuple[float, float]:
        """Return the shortest and the longest time that a trial of this work is expected to take."""
        return STARTS[0] + flops / self.fast, STARTS[1] + flops / self.slow

    def times(self, factor: float) -> "Speed":
        """Return the speed of several processors, or of a part of one."""
        return Speed(self.slow * factor, self.fast * factor)


def machine_speed(cpus: float, gpus: float) -> Speed:
    """Return the speed of a trial's share of this machine."""
    if gpus:
        return Speed(*GPU_FLOPS).times(gpus)
    return (_read() or _keep(measure_speed())).times(max(1.0, cpus))


def measure_speed() -> Speed:
    """Measure the throughput of convolutions, forward and backward, on one thread, in less than a second."""
    from diffseg.threads import limited_threads  # imports torch, which takes long

    with limited_threads(1):
        found = sorted(_measure_layer(*layer) for layer in LAYERS)
    return Speed(found[0], found[-1])


def _measure_layer(channels: int, side: int, batch: int) -> float:
    """Return floating-point operations a second of processor time of a layer."""
    import torch

    layer = torch.nn.Conv2d(channels, channels, 3, padding=1)
    images = torch.randn(batch, channels, side, side, requires_grad=True)
    operations = 3 * 2 * 9 * channels * channels * batch * side * side
    best = float("inf")
    for _ in range(ROUNDS):
        clock = time.thread_time()
        layer(images).sum().backward()
        best = min(best, time.thread_time() - clock)
    return operations / best


def cache_path() -> Path:
    """Return the file that keeps the speed: in $XDG_CACHE_HOME, or else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "diffseg" / NAME


def describe_machine() -> str:
    """Return what a measured speed holds for: host, processor, and the version of torch."""
    from importlib.metadata import version

    return f"{platform.node()}, {_name_processor()}, torch {version('torch')}"


def _name_processor() -> str:
    """Return the processor's model where Linux tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _read_all() -> dict[str, dict[str, float]]:
    """Return the speeds that the file has, by machine: home folders may be shared."""
    try:
        found = json.loads(cache_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _read() -> Speed | None:
    """Return the speed that was measured before; None if there is none that can be used."""
    try:
        found = Speed(**_read_all()[describe_machine()])
        return found if 0 < found.slow <= found.fast else None
    except (KeyError, TypeError):
        return None


def _keep(speed: Speed) -> Speed:
    """Write the speed into the file, and return it. A cache folder that cannot be written is ignored."""
    path = cache_path()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{NAME}.{uuid4().hex[:8]}")
        temporary.write_text(json.dumps(_read_all() | {describe_machine(): asdict(speed)}, indent=1), encoding="utf-8")
        temporary.replace(path)
    return speed
