"""analysis/README.md: its snippets run, and its lists are complete. tests/commands/test_manuals.py runs its commands."""

import re
from pathlib import Path

import pandas as pd
import pytest
from test_report import configs, ledger_of

import analysis
from diffseg.evaluation.registry import MEASURES, Metric
from studies.store.ledger import Ledger
from studies.store.tables import SCHEMAS, SEARCH_SCHEMAS

FOLDER = Path(__file__).parent.parent.parent / "analysis"
MANUAL = (FOLDER / "README.md").read_text()
BETTER = {True: "larger", False: "smaller", None: "–"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", MANUAL, re.DOTALL)


def section(title: str) -> str:
    return MANUAL.split(f"\n## {title}\n")[1].split("\n## ")[0]


def propose(ledger):
    """Add trials that Table 1 does not count: proposals on held-out images, a failed trial, and an attempt before the last."""
    for number, trial in enumerate(list(ledger.last_attempts())[:4]):
        (row,) = [row for row in ledger.last_rows() if row["trial"] == trial]
        row = {key: value for key, value in row.items() if value is not None and key not in ("trial", "attempt")}
        proposed = {"role": "search", "scored_on": "held-out", "iou": 0.1, "config_data_held_out": 0.2}
        ledger.write(f"proposed-{number}", 1, {"trials": [row | proposed]})
        ledger.write(f"failed-{number}", 1, {"trials": [row | {"status": "failed", "iou": 0.1}]})
        ledger.write(trial, 2, {"trials": [row | {"started": row["finished"]}]})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A folder in which results/quickstart is a finished study."""
    folder = tmp_path_factory.mktemp("manual")
    ledger = ledger_of(folder / "results", configs())
    propose(ledger)
    (folder / "results" / ledger.study).rename(folder / "results" / "quickstart")
    return folder


@pytest.mark.sampled(3)
@pytest.mark.parametrize("snippet", [text for text in blocks("python") if "register(" not in text])
def test_a_python_snippet_runs(snippet, store, monkeypatch):
    monkeypatch.chdir(store)
    exec(compile(snippet, "analysis/README.md", "exec"), {})


@pytest.mark.parametrize("query", blocks("sql"))
def test_a_query_has_rows(query, store, monkeypatch):
    import duckdb

    monkeypatch.chdir(store)
    assert duckdb.sql(query).fetchall()


def test_other_programs_read_the_ledgers_numbers(store, monkeypatch):
    import duckdb

    monkeypatch.chdir(store)
    table1 = analysis.open("quickstart").table1()
    found = duckdb.sql(next(text for text in blocks("sql") if "FULL JOIN" in text)).df()
    assert len(found) == len(table1) == 4
    columns = list(found)
    ordered = [rows[columns].sort_values(columns, ignore_index=True) for rows in (found, table1)]
    pd.testing.assert_frame_equal(*ordered, check_dtype=False, check_flags=False, rtol=1e-12, atol=1e-15)
    trials = Ledger("results", "quickstart").read("trials").to_pandas()
    (snippet,) = (text for text in blocks("python") if "import polars" in text)
    names: dict = {}
    exec(compile(snippet, "analysis/README.md", "exec"), names)
    assert len(names["trials"]) == len(trials)


def test_the_new_metric_is_the_one_that_is_tested():
    (snippet,) = (text for text in blocks("python") if "register(" in text)
    assert snippet == (FOLDER.parent / "tests" / "evaluation" / "example_metric.py").read_text()


def metric_row(metric: Metric) -> str:
    """The row of the manual's table that a metric has."""
    definition = metric.definition.replace("|", "\\|")
    unit = "" if metric.unit == "fraction" else f" {metric.unit}"
    tables = [*(["`trials`"] if metric.ranks else []), *([] if metric.pooled else ["`images`"])]
    cells = (f"`{metric.name}`", metric.title, definition, f"{metric.range}{unit}", BETTER[metric.larger_is_better])
    return f"| {' | '.join(cells)} | {', '.join(tables)} |"


def test_metrics_are_those_of_the_registry():
    rows = [line for line in section("Metrics").splitlines() if line.startswith("| `")]
    assert rows == [metric_row(metric) for metric in MEASURES.values()]


def test_every_table_and_every_column_is_described():
    text = section("Tables and their columns")
    for table, schema in (SCHEMAS | SEARCH_SCHEMAS).items():
        (row,) = re.findall(rf"^\| `{table}` \| .*$", text, re.MULTILINE)
        described = text if table == "trials" else row
        keys = {"trial", "attempt"} if table in SCHEMAS else set()
        missing = {name for name in schema.names if f"`{name}`" not in described} - keys - set(MEASURES)
        assert not missing, f"{table}: {missing}"


def test_charts_are_those_of_the_report():
    from analysis.figures import CHARTS

    named = set(re.findall(r"`(\w+)`", section("In a notebook").split("| file | charts |")[1].split("\n\n")[0]))
    assert {draw.__name__ for draw in CHARTS} <= named
