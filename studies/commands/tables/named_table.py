"""A table of named rows, for terminals of any width. Names are never cut or folded, so that they can be copied."""

import textwrap
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

GAP = 2  # blanks between two columns
INDENT = 4  # blanks before what stands below a name
NARROWEST = 30  # characters that a remark needs to stand beside the cells


class NamedTable:
    """Rows of a name, short cells, and a remark of any length. Columns without any cell are left out.

    A row takes one line where that fits. Else remarks go below their rows and fold between words, and where even names and cells
    do not fit side by side, cells go below their names.
    """

    def __init__(self, *columns: str, remark: str = "", caption: str = ""):
        """Take the headings, that of the names first. remark: the heading of the remarks."""
        self._columns, self._remark, self.caption = columns, remark, caption
        self.rows: list[tuple[str, ...]] = []
        self._remarks: list[str] = []

    def add_row(self, *cells: str, remark: str = "") -> None:
        """Add a row of as many cells as there are columns."""
        self.rows.append(cells)
        self._remarks.append(remark)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines. They are longer than the terminal only for a name or a cell that is."""
        shown = [number for number in range(len(self._columns)) if not number or any(row[number] for row in self.rows)]
        head, *rows = ([row[number] for number in shown] for row in (self._columns, *self.rows))
        widths = [max(map(cell_len, column)) for column in zip(head, *rows, strict=True)]
        stacked = sum(widths) + GAP * (len(widths) - 1) > options.max_width
        left = options.max_width - sum(widths) - GAP * len(widths)
        longest = max(map(cell_len, self._remarks), default=0)
        beside = longest > 0 and not stacked and left >= max(min(longest, NARROWEST), len(self._remark))
        title = self._remark if beside else ""
        heading = list(_lay_out(head, widths, stacked, title))
        if longest and not beside:
            heading.append(" " * INDENT + self._remark)
        yield from (Text(line, style="bold", no_wrap=True, overflow="ignore") for line in heading)
        for row, remark in zip(rows, self._remarks, strict=True):
            folded = _fold(remark, left if beside else options.max_width - INDENT)
            lines = list(_lay_out(row, widths, stacked, folded[0] if beside and folded else ""))
            indent = sum(widths) + GAP * len(widths) if beside else INDENT
            lines += [" " * indent + line for line in folded[beside:]]
            yield from (Text(line, no_wrap=True, overflow="ignore") for line in lines)
        if self.caption:
            yield Text(self.caption, style="italic")


def _lay_out(cells: Sequence[str], widths: Sequence[int], stacked: bool, remark: str) -> Iterator[str]:
    """Yield the lines of a row: one, or the name and the cells below it."""
    padded = [cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)]
    if stacked:
        yield cells[0]
        padded = [" " * (INDENT - GAP), *padded[1:]]
    yield (" " * GAP).join([*padded, remark]).rstrip()


def _fold(text: str, width: int) -> list[str]:
    """Return a text in lines that end between words."""
    return textwrap.wrap(text, max(width, 1), break_long_words=False, break_on_hyphens=False)
