"""The command that measures this machine: `bench`."""

import os
from collections.abc import Sequence
from pathlib import Path

import click

from diffseg.errors import UserError
from diffseg.rows import Row
from studies.commands.options import json_option
from studies.commands.output import show

QUIET_PROFILER = {"KINETO_LOG_LEVEL": "99", "TORCH_CPP_LOG_LEVEL": "ERROR"}  # torch reads them when it is imported


@click.command()
@click.option(
    "--part",
    "parts",
    multiple=True,
    help="Measure only this part: training, prediction, data, metrics, fingerprint or engine. Repeatable.",
)
@click.option("--network", "networks", multiple=True, help="Measure only this diffusion network. Repeatable.")
@click.option(
    "--preset",
    help="Preset of the networks; `published` stands for all published ones, which need a GPU.  [default: debug twins]",
)
@click.option(
    "--size", type=click.IntRange(min=16), help="Image side in px.  [default: 64, or that of a published preset]"
)
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(min=1),
    multiple=True,
    help="Batch size. Repeatable.  [default: 8 and 16]",
)
@click.option(
    "--compile", "compiled", is_flag=True, help="Also measure with torch.compile, which takes a minute a network."
)
@click.option("--rounds", type=click.IntRange(min=3), help="How often each way is timed, in turns.  [default: 9]")
@click.option(
    "--quick",
    is_flag=True,
    help="Measure less: one batch size, three rounds, one sampler, and on CPUs no memory. Minutes on a GPU.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False),
    default="bench.parquet",
    show_default=True,
    help="The Parquet file to write.",
)
@json_option
def bench(
    parts: tuple[str, ...],
    networks: tuple[str, ...],
    preset: str | None,
    size: int | None,
    batches: tuple[int, ...],
    compiled: bool,
    rounds: int | None,
    quick: bool,
    output: str,
    as_json: bool,
) -> None:
    """Measure the speed of this machine.

    Training, prediction, data and metrics are compared with other implementations. All ways of one operation take turns
    in one process. The table has the median of each and its ratio to the first. The engine's part is the time between
    two trials and the time to read a ledger. Writes a Parquet table, and a chart beside it.

    Example: diffseg bench --part training --network segdiff
    """
    for name, level in QUIET_PROFILER.items():
        os.environ.setdefault(name, level)
    import pandas as pd

    from analysis.frames import records
    from analysis.speed import draw_speed
    from diffseg.bench import benchmarks, harness
    from diffseg.training.execution import choose_device
    from studies.commands.tables.estimates import speed_table
    from studies.engine import bench as engine

    device = choose_device()
    rounds, batches = rounds or (3 if quick else 9), batches or ((16,) if quick else (8, 16))
    parts = _checked("part", parts, [*benchmarks.PARTS, "engine"])
    chosen = _chosen_presets(_checked("network", networks, list(benchmarks.PRESETS)), preset)
    machine = harness.describe_machine(device)
    rows: list[Row] = []

    def keep(found: list[Row]) -> None:
        """Write the table after each benchmark, so that a later failure loses nothing."""
        rows.extend(row | machine for row in found)
        pd.DataFrame(rows).to_parquet(output)

    for benchmark in benchmarks.benchmarks(parts, chosen, size, batches, compiled, device, quick):
        click.echo(f"{benchmark.subject} {benchmark.network} {benchmark.detail}", err=True)
        keep(harness.measure(benchmark, rounds, device, quick))
    if "engine" in parts:
        click.echo("engine", err=True)
        keep(engine.measure(rounds))
    frame = pd.DataFrame(rows)
    draw_speed(frame).save(Path(output).with_suffix(".html"), inline=True)
    show(records(frame), as_json, speed_table)


def _checked(option: str, given: tuple[str, ...], known: Sequence[str]) -> tuple[str, ...]:
    """Return the given values of an option, or all known ones if there are none.

    Raises UserError for an unknown value.
    """
    if unknown := set(given) - set(known):
        raise UserError(f"--{option} {min(unknown)} is none of {', '.join(known)}")
    return given or tuple(known)


def _chosen_presets(networks: tuple[str, ...], preset: str | None) -> list[tuple[str, str]]:
    """Return pairs of network and preset. Raises UserError if none of the networks has the preset."""
    from diffseg.bench.benchmarks import select_presets
    from diffseg.config.presets import names

    if not (chosen := select_presets(networks, preset)):
        allowed = ["published", "debug", *(one for name in networks for one in names(name))]
        raise UserError(f"--preset {preset} is none of {', '.join(allowed)}")
    return chosen
