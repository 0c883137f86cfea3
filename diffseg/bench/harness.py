"""Time several implementations of one operation in turns, within one process.

Machines are shared and change their clock frequency. Only ratios of medians within one run are comparable: all
implementations are timed once a round. On GPUs all of them, also those of other libraries, compute float32 without TF32
(`computing_device`).
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

from diffseg.rows import Row
from diffseg.training.parallel import is_out_of_memory

log = logging.getLogger(__name__)
PEAK_SIDE = {"cpu": 2048, "cuda": 8192}  # rows of the square matrices whose product gives the peak throughput
PRODUCTS, QUICK_PRODUCTS = 25, 5  # that the fastest is taken of


@dataclass(frozen=True)
class Benchmark:
    """One operation in several implementations ("ways"). The first way is the reference of the ratios."""

    subject: str
    network: str
    detail: str
    ways: dict[str, Callable[[], object]]
    images: int = 0  # that one call processes; 0 if it processes none
    count_flops: bool = False  # count the floating-point operations of the first way, for `peak_share`
    precisions: dict[str, str] = field(default_factory=dict)  # of the ways that do not compute in float32
    once: bool = False  # time a single call without warm-up, because a call takes long


def measure(benchmark: Benchmark, rounds: int, device: torch.device, quick: bool = False) -> list[Row]:
    """Time all ways that fit into memory in turns, `rounds` times. Return the rows of `summarise`.

    quick: do without what takes long: on CPUs the memory, and most of the products that give the peak throughput.
    """
    seconds: dict[str, list[float]] = {way: [] for way in benchmark.ways}
    torch.compiler.reset()  # torch keeps eight compiled graphs of a forward method and runs any further one eagerly
    ways = {way: call for way, call in benchmark.ways.items() if benchmark.once or _fits_in_memory(call, way)}
    skipped = benchmark.once or (quick and device.type == "cpu")
    memory = {} if skipped else {way: _peak_memory(call, device) for way, call in ways.items()}
    flops = _count_flops(next(iter(ways.values()))) if ways and benchmark.count_flops else 0
    for _ in range(1 if benchmark.once else rounds):
        for way, call in ways.items():
            gc.collect()
            synchronise(device)
            clock = time.perf_counter()
            call()
            synchronise(device)
            seconds[way].append(time.perf_counter() - clock)
    return summarise(benchmark, seconds, device, memory, flops, QUICK_PRODUCTS if quick else PRODUCTS)


def summarise(
    benchmark: Benchmark,
    seconds: dict[str, list[float]],
    device: torch.device,
    memory: dict[str, int] | None = None,
    flops: int = 0,
    products: int = PRODUCTS,
) -> list[Row]:
    """Return one row for each way. products: that the peak throughput is the fastest of.

    Columns: subject, network, detail, way, seconds (median), low and high (quartiles), ratio (to the first way: median of
    the ratios of each round), images_per_second, peak_share (fraction of the throughput of `measure_peak`), memory_bytes
    (`_peak_memory`). Values that were not measured are NaN. A way that does not fit into memory has NaN in all of them.
    """
    first = seconds[next(iter(benchmark.ways))]
    rows = []
    for way, taken in seconds.items():
        low, median, high = statistics.quantiles(taken, n=4) if len(taken) > 1 else (taken or [math.nan]) * 3
        precision = benchmark.precisions.get(way, "float32")
        rows.append(
            {
                "subject": benchmark.subject,
                "network": benchmark.network,
                "detail": benchmark.detail,
                "way": way,
                "seconds": median,
                "low": low,
                "high": high,
                "ratio": _median_ratio(taken, first),
                "images_per_second": benchmark.images / median if benchmark.images else math.nan,
                "peak_share": flops / median / measure_peak(device.type, precision, products) if flops else math.nan,
                "memory_bytes": (memory or {}).get(way, math.nan),
            }
        )
    return rows


def _median_ratio(taken: list[float], first: list[float]) -> float:
    """Return the median over rounds of the times divided by those of the first way; NaN if either was not measured."""
    if not taken or not first:
        return math.nan
    return statistics.median(mine / theirs for mine, theirs in zip(taken, first, strict=True))


def _fits_in_memory(call: Callable[[], object], way: str) -> bool:
    """Run a call once, as warm-up, and return whether it fits into memory.

    The warm-up includes compilation, allocations and caches that later calls reuse.
    """
    try:
        call()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        log.warning("%s does not fit into memory", way)
        return False
    return True


def _count_flops(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def _peak_memory(call: Callable[[], object], device: torch.device) -> int:
    """Return the most bytes that tensors allocated by a call hold on the device at once.

    Activations and gradients count. Tensors from before the call, such as weights, optimiser moments and what a CUDA graph
    holds, do not. Workspaces of kernels count on GPUs alone.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        call()
    with tempfile.TemporaryDirectory() as folder:
        found.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    changes = [event for event in events if event["name"] == "[memory]" and event["args"]["Device Type"] == 0]
    held: dict[int, int] = {}
    now = most = 0
    for change in sorted(changes, key=lambda event: event["ts"]):
        address, size = change["args"]["Addr"], change["args"]["Bytes"]
        if size > 0:
            held[address] = size
        elif address in held:
            size = -held.pop(address)
        else:
            continue  # a tensor from before the call was freed
        now += size
        most = max(most, now)
    return most


def describe_machine(device: torch.device) -> dict[str, str | int]:
    """Return the columns that say what was measured on: device, threads and torch's version."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


_PEAKS: dict[tuple[str, str], float] = {}


def measure_peak(kind: str, precision: str, products: int = PRODUCTS) -> float:
    """Return the throughput of a product of large square matrices, in operations a second.

    The fastest of several products counts, because other processes may use the machine meanwhile. The result is cached.
    """
    if (kind, precision) not in _PEAKS:
        side, dtype = PEAK_SIDE[kind], {"float32": torch.float32, "bf16": torch.bfloat16}[precision]
        a, b = (torch.randn(side, side, device=kind, dtype=dtype) for _ in range(2))
        taken = []
        for _ in range(products):
            clock = time.perf_counter()
            a @ b
            synchronise(torch.device(kind))
            taken.append(time.perf_counter() - clock)
        _PEAKS[kind, precision] = 2 * side**3 / min(taken)
    return _PEAKS[kind, precision]


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for this process.

    Workers of trials get the same by environment variables (`MEMORY` in studies/engine/connection.py). Without it the
    kernel clears the pages of large tensors again at every step, for some ways and not for others.
    """
    if platform.system() == "Linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        for setting in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            mallopt(setting, 2**31 - 1)


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has finished its work; return at once on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _processor() -> str:
    """Return the processor's model name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
