"""Summaries of studies as Parquet files in `studies/measured`, and `studies/RESULTS.md`, which is written from them.

    python -m analysis.summaries

A summary has one row a cell: the cell's `row` and `column`, its `value`, the `difference` to a baseline, the limits `low` and
`high` of an interval (of the difference where there is one), the number of decimals `digits`, a `verdict`, and a `text` where
the cell holds no number.
"""

import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd

MEASURED = Path(__file__).parent.parent / "studies" / "measured"
TEMPLATE, RESULTS = MEASURED / "RESULTS.template.md", MEASURED.parent / "RESULTS.md"
PLACEHOLDER = re.compile(r"^\{table (\S+): (.*)\}$", re.MULTILINE)  # name of the summary, title of the rows


def read(name: str) -> pd.DataFrame:
    """Return the summary `studies/measured/NAME.parquet`."""
    return pd.read_parquet(MEASURED / f"{name}.parquet")


def to_markdown(summary: pd.DataFrame, title: str = "") -> str:
    """Return a summary as a Markdown table, rows and columns in the order of their first cells. title: of the rows."""
    rows, columns = list(dict.fromkeys(summary["row"])), list(dict.fromkeys(summary["column"]))
    cells = {(cell["row"], cell["column"]): cell_text(cell) for cell in summary.to_dict("records")}
    lines = [[title, *columns], ["---"] * (len(columns) + 1)]
    lines += [[row, *(cells.get((row, column), "") for column in columns)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell_text(cell: dict[str, Any]) -> str:
    """Return a cell as it stands in a table: `82.1`, `82.1 (81.7 to 82.3)`, `82.4 (−0.1; −0.6 to +0.4)`, with its verdict."""
    if pd.isna(cell["value"]):
        return str(cell["text"])
    digits = int(cell["digits"])
    text = _number(cell["value"], digits)
    if not pd.isna(cell["difference"]):
        change, low, high = (
            _number(cell[key], int(cell["signed_digits"]), "+") for key in ("difference", "low", "high")
        )
        text += f" ({change}; {low} to {high})"
    elif not pd.isna(cell["low"]):
        text += f" ({_number(cell['low'], digits)} to {_number(cell['high'], digits)})"
    return f"**{text}** {cell['verdict']}" if cell["verdict"] else text


def results() -> str:
    """Return the text of `studies/RESULTS.md`: the template with every `{table NAME: TITLE}` replaced by that summary."""
    template = TEMPLATE.read_text(encoding="utf-8")
    return PLACEHOLDER.sub(lambda found: to_markdown(read(found[1]), found[2]), template)


def _number(value: float, digits: int, sign: str = "") -> str:
    return f"{value:{sign},.{digits}f}".replace("-", "−")


if __name__ == "__main__":
    RESULTS.write_text(results(), encoding="utf-8")
    sys.stdout.write(f"wrote {RESULTS}\n")
