"""The report's charts as methods, for notebooks: `results.plot.mask_errors()`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import altair as alt

from analysis.figures import CHARTS, OPTIONAL, draw_figure
from diffseg.errors import UserError
from diffseg.suggestions import suggest

if TYPE_CHECKING:
    from analysis.results import Results

FIGURES = {  # name to caption and needed trials
    **{draw.__name__: (caption, needs) for draw, (caption, (needs, _)) in CHARTS.items()},
    **{draw.__name__: texts for draw, texts in OPTIONAL.items()},
}


@dataclass(frozen=True)
class Plots:
    """Every chart of the report by its name. `dir(results.plot)` lists them."""

    _results: Results

    def __getattr__(self, name: str) -> Plot:
        if name not in FIGURES:
            raise AttributeError(f"there is no chart '{name}': {suggest(name, FIGURES)}")
        return Plot(self._results, name)

    def __dir__(self) -> list[str]:
        return list(FIGURES)

    def __repr__(self) -> str:
        return "charts: " + ", ".join(FIGURES)


class Plot:
    """One chart of the report, drawn when it is called."""

    def __init__(self, results: Results, name: str):
        self._results, self.__name__ = results, name
        self._caption, self._needs = FIGURES[name]
        self.__doc__ = f"Draw the report's chart. {self._caption}."

    def __call__(self) -> alt.TopLevelMixin:
        """Return the chart. Raises UserError if the study lacks the trials that it shows."""
        chart = draw_figure(self.__name__, self._results, self._results.best_variants).chart
        if chart is None:
            raise UserError(f"{self._results.title} has nothing to draw here: {self.__name__} needs {self._needs}")
        return chart

    def __repr__(self) -> str:
        return f"{self.__name__}(): {self._caption}"
