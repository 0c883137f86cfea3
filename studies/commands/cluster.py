"""Commands about clusters: `cluster check`, `cluster submit`."""

import sys
from pathlib import Path

import click

from studies.commands.statuses import FAILED_TRIALS


@click.group()
def cluster() -> None:
    """Check cluster files, and submit studies to clusters."""


@cluster.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE...")
def check(files: tuple[Path, ...]) -> None:
    """Report what is wrong with files that describe clusters.

    FILE is for `ray up`, a RayJob or a SLURM script; nothing is started. Checks Ray's own schema, and what the schema
    accepts: versions that differ, drivers without a place, a store that nodes do not share, placeholders that were
    left.
    """
    from studies.engine.cluster_check import check as check_file

    problems = [problem for file in files for problem in check_file(file)]
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        sys.exit(FAILED_TRIALS)
    click.echo("nothing wrong")


@cluster.command(context_settings={"ignore_unknown_options": True})
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED, metavar="STUDY [OPTION OF RUN]...")
def submit(file: Path, arguments: tuple[str, ...]) -> None:
    """Run a study on a cluster that `ray up FILE` has started.

    The study is a Ray job, which outlives this machine. The words after FILE are those after `diffseg run`. Data and
    store are named as the nodes see them.

    Example: diffseg cluster submit cluster.yaml paper --data isic16=s3://bucket/isic16
    """
    from studies.engine.submission import submit as submit_job

    job = submit_job(file, arguments, click.echo)
    click.echo(
        f"{job} runs on the cluster: `ray exec {file} 'ray job logs -f {job}'` follows it, `ray job stop {job}` ends it"
    )
