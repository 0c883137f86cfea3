"""The example notebook: its cells run in order on a small study, and its saved outputs are small and without errors."""

import ast
import json
import time
from pathlib import Path

import altair
import pandas as pd
import pytest
from finished import copy_store
from test_search import carry_out, study_of

from analysis.results import Results
from studies.store.ledger import Ledger

PATH = Path(__file__).parent.parent.parent / "analysis" / "example.ipynb"
NOTEBOOK = json.loads(PATH.read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
LARGEST = 200_000  # bytes


@pytest.fixture
def folder(finished, tmp_path):
    """A folder in which results/quickstart is the finished study, with a search."""
    store = copy_store(finished, tmp_path / "copy")
    (store / "small").rename(store / "quickstart")
    ledger, search = Ledger(str(store), "quickstart"), study_of(budget=4)
    ledger.define(ledger.definition() | {key: search.definition()[key] for key in ("search", "starts")})
    carry_out(search, ledger, dataset="searched", experiment="e2", network="ensemdiff", scored_on="held-out", seed=0)
    store.rename(tmp_path / "results")
    return tmp_path


def run_cell(source: str, names: dict) -> object:
    """Run a cell as a notebook does, and return the value of its last line if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, PATH.name, "exec"), names)
    return eval(compile(ast.Expression(last.value), PATH.name, "eval"), names) if last else None


def test_the_notebook_runs_on_a_small_study(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DIFFSEG_STORE", raising=False)
    names, shown, start = {}, [], time.process_time()
    with altair.renderers.enable(altair.renderers.active):  # restores it
        for cell in CODE:
            value = run_cell("".join(cell["source"]), names)
            shown.append(value)
            assert value._repr_mimebundle_() if hasattr(value, "_repr_mimebundle_") else value._repr_html_()
    assert time.process_time() - start < 20
    kinds = [type(value) for value in shown]
    assert issubclass(kinds[0], Results)
    assert kinds.count(pd.DataFrame) == 3
    assert sum(issubclass(kind, altair.TopLevelMixin) for kind in kinds) == 2
    assert all(len(value) for value in shown if isinstance(value, pd.DataFrame))


def test_the_saved_outputs_are_small_and_complete():
    assert PATH.stat().st_size < LARGEST
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    for cell in CODE:
        assert cell["outputs"], "run `jupyter execute --inplace example.ipynb` beside the results of a quickstart"
        assert {output["output_type"] for output in cell["outputs"]} == {"execute_result"}
    assert "image/svg+xml" in CODE[-1]["outputs"][0]["data"]
    assert not any(word in PATH.read_text(encoding="utf-8") for word in ("/home/", "/tmp/", "/work/", "/root/"))
