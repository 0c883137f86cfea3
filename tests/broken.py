"""A store with rows in every table, ways to damage it, and a reader that uses all of it."""

import contextlib
import errno
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import CliRunner, Result
from pyarrow.fs import FileSystemHandler
from test_report import attempt

from analysis import tables
from analysis.noise_levels import errors_over_t
from analysis.searches import rank_proposals, sum_costs
from analysis.segmentations import tabulate_studies
from diffseg.errors import UserError
from studies.commands.program import main
from studies.definition.reading import read_study
from studies.definition.trial import trial_name
from studies.search.proposals import Proposal
from studies.store.ledger import Ledger
from studies.store.tables import SCHEMAS, SEARCH_SCHEMAS

STUDY = "quickstart"
WRITTEN = [
    table for table in SCHEMAS if table not in ("confusion", "risks")
]  # by trials of one class without a limit of the risk
TABLES = [*WRITTEN, *SEARCH_SCHEMAS]


def build_ledger(store: Path) -> Ledger:
    """Make a quickstart of which one data set's trials are done, with two proposals of its search."""
    ledger, study = Ledger(str(store), STUDY), read_study(STUDY, {}, {})
    ledger.define(study.definition())
    (start,) = study.starts
    configs = [trial.config for trial in study.trials[:3]]
    for number, source in enumerate(("baseline", "tpe")):
        settings = {"diffusion.weighting": "target" if number else "constant"}
        config = start.config.with_leaves({"training.learning_rate": 1e-4 * (1 + number)}).resolved()
        name = trial_name(config)
        Proposal(start.name, number, 0, name, source, settings, config).record(ledger)
        row = {"search": start.name, "step": 10, "trial": name, "metric": "iou", "value": 0.5}
        ledger.record("rungs", [row])
        configs.append(config)
    for config in configs:
        rows = attempt(config, trial_name(config))
        if config.experiment == "e3":
            rows["fingerprints"] = [{"dataset": "x", "t": 0.5, "error": 0.1}]
        ledger.write(trial_name(config), 1, rows)
    return ledger


def copy_ledger(ledger: Ledger, store: Path) -> Ledger:
    shutil.copytree(ledger.store, store)
    return Ledger(str(store), STUDY)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def check_one_sentence(result: Result) -> None:
    """Check that a command that refuses does so in one sentence. Any other failure is raised."""
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code == 2:
        said = [line for line in result.output.splitlines() if line.startswith("diffseg: ")]
        assert len(said) == 1, result.output


def quick_commands(ledger: Ledger, trial: str = "e1-synthetic-large") -> None:
    """Run the commands that read most, except the report."""
    for line in (("status", STUDY, "--json"), ("show", STUDY, trial), ("best", STUDY, "--pareto")):
        check_one_sentence(invoke(*line, "--store", ledger.store))


def read_all(ledger: Ledger) -> None:
    """Read whatever the report reads. Raises every error but UserError."""
    try:
        found = tables.load([ledger])
    except UserError:
        return
    for frame in (found.timesteps, found.calibration, found.examples, found.images, found.curves()):
        assert len(frame.columns)
    found.best(), found.pareto(), found.table1(), tabulate_studies(found), found.shown()
    errors_over_t(found, ["e2", "e3"], "mask_error"), rank_proposals(found.searches), sum_costs(found.searches)
    with contextlib.suppress(UserError):
        found.fingerprints()


def rewrite(path: Path, change) -> None:
    """Change the table in a Parquet file."""
    pq.write_table(change(pq.read_table(path)), path)


def drop_column(name: str):
    return lambda table: table.drop_columns([name]) if name in table.column_names else table


def set_column(name: str, values) -> object:
    """Return a change that sets a column to a value in every row, or to an array."""

    def change(table: pa.Table) -> pa.Table:
        column = pa.array([values] * table.num_rows) if not isinstance(values, pa.Array) else values
        if name in table.column_names:
            return table.set_column(table.column_names.index(name), name, column)
        return table.append_column(name, column)

    return change


class Failing(FileSystemHandler):
    """A file system that lists its files but fails to open them, as if its server had gone away."""

    def __init__(self, inner):
        self.inner = inner

    def _fail(self, *_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def get_type_name(self):
        return "failing"

    def get_file_info(self, paths):
        return self.inner.get_file_info(paths)

    def get_file_info_selector(self, selector):
        return self.inner.get_file_info(selector)

    def normalize_path(self, path):
        return path

    open_input_stream = open_input_file = open_output_stream = open_append_stream = _fail
    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = delete_file = move = copy_file = _fail
