"""How fast this machine trains and predicts: ways of doing the same, in turns, within one process.

Machines are shared and change their clocks, so what holds are ratios of medians within one run, way by way in the same round.
On GPUs all ways, others' too, compute float32 without TF32 (`computing_device`).
"""

import ctypes
import gc
import json
import logging
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from diffseg.training.parallel import is_out_of_memory

log = logging.getLogger(__name__)
PEAK_SIDE = {"cpu": 2048, "cuda": 8192}  # of the square matrices whose product is the machine's peak


@dataclass(frozen=True)
class Contest:
    """What is done in several ways, of which the first is what the others are compared with."""

    subject: str
    network: str
    detail: str
    ways: dict[str, Callable[[], object]]
    images: int = 0  # of one call; 0 where it has none
    counted: bool = False  # whether its floating-point operations are
    precisions: dict[str, str] = field(default_factory=dict)  # of ways that are not float32
    once: bool = False  # since a call takes long


def measure(contest: Contest, rounds: int, device: torch.device) -> list[dict]:
    """All ways that fit into memory in turns, `rounds` times: the rows of `told`."""
    seconds: dict[str, list[float]] = {way: [] for way in contest.ways}
    torch.compiler.reset()  # of one forward, torch keeps eight graphs, and computes eagerly what comes after
    ways = {way: call for way, call in contest.ways.items() if contest.once or _fits(call, way)}
    memory = {} if contest.once else {way: _taken(call, device) for way, call in ways.items()}
    flops = _operations(next(iter(ways.values()))) if ways and contest.counted else 0
    for _ in range(1 if contest.once else rounds):
        for way, call in ways.items():
            gc.collect()
            wait(device)
            clock = time.perf_counter()
            call()
            wait(device)
            seconds[way].append(time.perf_counter() - clock)
    return told(contest, seconds, device, memory, flops)


def told(
    contest: Contest,
    seconds: dict[str, list[float]],
    device: torch.device,
    memory: dict[str, float] | None = None,
    flops: int = 0,
) -> list[dict]:
    """A row a way: subject, network, detail, way, seconds (median), low and high (quartiles), ratio (to the first way, median
    over rounds), images_per_second, peak_share (of the matrix product's throughput), memory_bytes (`_taken`). NaN is what was
    not measured: all of it, of a way that does not fit into memory."""
    first = seconds[next(iter(contest.ways))]
    rows = []
    for way, taken in seconds.items():
        low, median, high = statistics.quantiles(taken, n=4) if len(taken) > 1 else (taken or [math.nan]) * 3
        precision = contest.precisions.get(way, "float32")
        share = flops / median / peak(device.type, precision) if flops else math.nan
        rows.append(
            {
                "subject": contest.subject,
                "network": contest.network,
                "detail": contest.detail,
                "way": way,
                "seconds": median,
                "low": low,
                "high": high,
                "ratio": _ratio(taken, first),
                "images_per_second": contest.images / median if contest.images else math.nan,
                "peak_share": share,
                "memory_bytes": (memory or {}).get(way, math.nan),
            }
        )
    return rows


def _ratio(taken: list[float], first: list[float]) -> float:
    if not taken or not first:
        return math.nan
    return statistics.median(mine / theirs for mine, theirs in zip(taken, first, strict=True))


def _fits(call: Callable[[], object], way: str) -> bool:
    """Whether a call fits into memory; the first one, too, in which what is needed once is compiled, allocated or looked up."""
    try:
        call()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        log.warning("%s does not fit into memory", way)
        return False
    return True


def _operations(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _taken(call: Callable[[], object], device: torch.device) -> int:
    """The most bytes that tensors of a call hold on the device at once: activations and gradients, but not what was there before,
    as weights and moments are, nor what kernels hold for themselves."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        call()
        wait(device)
    with tempfile.TemporaryDirectory() as folder:
        found.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    kind = {"cpu": 0, "cuda": 1}[device.type]
    changes = [event for event in events if event["name"] == "[memory]" and event["args"]["Device Type"] == kind]
    held: dict[int, int] = {}
    now = most = 0
    for change in sorted(changes, key=lambda event: event["ts"]):
        address, size = change["args"]["Addr"], change["args"]["Bytes"]
        if size > 0:
            held[address] = size
        elif address in held:
            size = -held.pop(address)
        else:
            continue  # what was there before
        now += size
        most = max(most, now)
    return most


def machine(device: torch.device) -> dict:
    """What was measured on, which every row is told with."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


_PEAKS: dict[tuple[str, str], float] = {}


def peak(kind: str, precision: str) -> float:
    """Operations a second of a product of large matrices, the best of many, since others may take the machine for a while."""
    if (kind, precision) not in _PEAKS:
        side, dtype = PEAK_SIDE[kind], {"float32": torch.float32, "bf16": torch.bfloat16}[precision]
        a, b = (torch.randn(side, side, device=kind, dtype=dtype) for _ in range(2))
        taken = []
        for _ in range(25):
            clock = time.perf_counter()
            a @ b
            wait(torch.device(kind))
            taken.append(time.perf_counter() - clock)
        _PEAKS[kind, precision] = 2 * side**3 / min(taken)
    return _PEAKS[kind, precision]


def keep_freed_memory() -> None:
    """As trials' workers do by their environment (`MEMORY` in studies/session.py), here in a process that has started.

    Else the kernel clears large tensors' pages again at every step, of some ways and not of others.
    """
    if platform.system() == "Linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        for setting in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            mallopt(setting, 2**31 - 1)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
