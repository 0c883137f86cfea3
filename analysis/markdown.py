"""Markdown as GitHub renders it. Text is escaped, so that names from files are shown as they are and start no markup."""

import re
from collections.abc import Iterable, Sequence

MARKUP = re.compile(
    r"[\\`*|\[\]~$]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\."  # underscores within words start nothing, URLs do
)
ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
BACKTICKS = re.compile("`+")


class Markup(str):
    """Text that is Markdown already, and is not escaped again."""


def escape(value: object) -> Markup:
    """Return a value as Markdown that shows it on one line; Markup stays as it is."""
    if isinstance(value, Markup):
        return value
    shown = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in " ".join(str(value).split()))
    return Markup(MARKUP.sub(r"\\\g<0>", shown.translate(ENTITIES)))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a table, with a blank line after it. Cells are escaped."""
    lines = [columns, ["---"] * len(columns), *([escape(cell) for cell in row] for row in rows)]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def bullets(sentences: Iterable[str]) -> list[str]:
    """Return the lines of a list, with a blank line after it. Sentences are escaped."""
    return [*(f"- {escape(sentence)}" for sentence in sentences), ""]


def code_block(language: str, text: str) -> list[str]:
    """Return the lines of a block of code that nothing in the text can end, with a blank line after it."""
    fence = "`" * max(3, 1 + max((len(run) for run in BACKTICKS.findall(text)), default=0))
    return [f"{fence}{language}", text, fence, ""]


def collapse(summary: str, lines: Iterable[str]) -> list[str]:
    """Return lines that are hidden until their summary is clicked."""
    return ["<details>", f"<summary>{escape(summary)}</summary>", "", *lines, "</details>", ""]


def link_section(title: str) -> Markup:
    """Return a link to the section of this title."""
    return Markup(f"[{title}](#{title.lower().replace(' ', '-')})")
