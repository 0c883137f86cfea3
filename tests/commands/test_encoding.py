"""Everything is written in UTF-8 in any locale, and text that a spreadsheet would run gets an apostrophe."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from studies.definition.reading import read_study
from studies.store.ledger import Ledger

ROOT = Path(__file__).parent.parent.parent
IN_C = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def in_c(*arguments: str) -> subprocess.CompletedProcess:
    """Run the program in the C locale, where Python's default encoding is ASCII."""
    line = [sys.executable, "-m", "studies", *arguments]
    return subprocess.run(line, capture_output=True, env=os.environ | IN_C, cwd=ROOT)


@pytest.mark.slow
def test_names_with_other_letters_than_ascii_in_the_c_locale(tmp_path):
    store = tmp_path / "Läufe 研究"
    ledger = Ledger(str(store), "Übung")
    ledger.define(read_study("quickstart", {}, {}).definition() | {"command": "diffseg run Übung"})
    trial = read_study("quickstart", {}, {}).trials[0].name
    row = {"status": "failed", "error": "die Datei „Ä.png“ fehlt"}
    ledger.write(trial, 1, {"trials": [row]})
    shown = in_c("status", "Übung", "--store", str(store))
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert "die Datei „Ä.png“ fehlt" in " ".join(shown.stdout.decode().split())
    found = json.loads(in_c("status", "Übung", "--store", str(store), "--json").stdout)
    assert found[0]["error"] == row["error"]
    missing = in_c("status", "Größe", "--store", str(store))
    assert "no study 'Größe' in the store" in missing.stderr.decode()
    (tmp_path / "Ä.toml").write_text('[data.synthetic-a]\ndata.layout = "synthetic"\n# ü\n', encoding="utf-8")
    planned = in_c("plan", str(tmp_path / "Ä.toml"), "--store", str(store), "--experiment", "e1", "data.size=32")
    assert planned.returncode == 0, planned.stderr.decode()


UNSAFE = re.compile(
    r"(?<!os)(?<!Image)(?<!textfile)\.(read_text|write_text)\((?!.*encoding=)|(?<![.\w])(?<!def )open\((?!.*(encoding=|\"[rwa]b))"
)


@pytest.mark.parametrize("package", ["analysis", "diffseg", "search_spaces", "studies"])
def test_text_files_are_opened_with_an_encoding(package):
    found = [
        f"{path}:{number}: {line.strip()}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if UNSAFE.search(line)
    ]
    assert found == []


def test_csv_cells_that_a_spreadsheet_would_run_get_an_apostrophe():
    if not (node := shutil.which("node")):
        pytest.skip("node is not installed")
    script = (ROOT / "analysis/report.js").read_text(encoding="utf-8")
    function = script[script.index("function csv(spec)") : script.index("async function picture")]
    texts = ["=1+1", "+1", "-1", "@a", "\ta", "\ra", "=a,b", '="x"', "safe", "a=b", "e1-x"]
    rows = [{"name": text, "value": -0.5} for text in texts] + [{"=key": -3e-7, "name": None, "value": 0}]
    code = f"{function}\nconsole.log(JSON.stringify(csv({{datasets: {{a: {json.dumps(rows)}}}}})))"
    found = json.loads(subprocess.run([node, "-e", code], capture_output=True, check=True, encoding="utf-8").stdout)
    import csv

    lines = list(csv.reader(found.splitlines(keepends=True)))
    assert lines[0] == ["name", "value", "'=key"]
    assert [line[0] for line in lines[1:-1]] == [f"'{text}" if text[0] in "=+-@\t\r" else text for text in texts]
    assert {line[1] for line in lines[1:-1]} == {"-0.5"}
    assert lines[-1] == ["", "0", "-3e-7"]
