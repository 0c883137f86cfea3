"""The report: one HTML file made from the ledgers, which opens offline and sends no request."""

import datetime
from pathlib import Path

import jinja2
import vl_convert

from analysis import comparison, report_tables, tables
from analysis.answers import answer_questions, count_verdicts
from analysis.configurations import name_configurations
from analysis.figures import Figure, draw_figures, draw_optional_figures
from analysis.frames import records
from analysis.verdicts import signed
from analysis.writing import replacing
from diffseg.errors import UserError
from studies.store.ledger import Ledger


def write_report(ledgers: list[Ledger], path: Path, png: Path | None = None) -> Path:
    """Write the report of one or more studies to a file, and return its path.

    With png, also write every chart into that folder. A study that is named twice counts once. Raises UserError if none of the
    studies' trials has ended, or if a file cannot be written.
    """
    found = tables.load(ledgers)
    ledgers, shown = list(found.ledgers), found.shown()
    compared = comparison.compare_configurations(found, name_configurations(ledgers), comparison.LISTED)
    tested, table1 = comparison.compare_table1(found, shown)
    figures = draw_figures(shown) + draw_optional_figures(found, shown, compared, table1)
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            studies=[ledger.study for ledger in ledgers],
            summary=report_tables.summarise_trials(found, ledgers),
            answers=(answers := answer_questions(found, tested)),
            verdicts=count_verdicts(answers),
            figures={figure.name: figure for figure in figures},
            comparison=comparison.select_shown(records(compared)),
            metrics=comparison.NAMES,
            larger_is_better=comparison.LARGER_IS_BETTER,
            several_classes=bool(found.classes),
            javascript=_vega(),
            now=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            provenance=report_tables.trace_provenance(found, ledgers),
            **report_tables.tabulate_segmentations(found, shown, table1),
            **report_tables.tabulate_noise_levels(shown),
            **report_tables.tabulate_searches(found),
            **report_tables.list_failures(found),
        )
    )
    if png:
        _save_pictures(figures, png)
    return _write(page, path)


def _environment() -> jinja2.Environment:
    """Return the templates' environment, with the filters `number` (of a format, with a true minus sign) and `duration`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": signed, "duration": _describe_duration}
    return environment


def _describe_duration(hours: float) -> str:
    """Return a time in hours, or below one hour in minutes."""
    return f"{hours:.1f} hours" if hours >= 1 else f"{max(1, round(60 * hours))} min"


def _vega() -> str:
    """Return the JavaScript of Vega, as text that cannot end the script element that holds it."""
    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub lacks the argument's default
    return bundle.replace("</script", "<\\/script")


def _save_pictures(figures: list[Figure], folder: Path) -> None:
    """Write every chart as a PNG. Raises UserError if the folder cannot be written to."""
    for figure in figures:
        if figure.chart:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                figure.chart.properties(background="white").save(str(folder / f"{figure.name}.png"), scale_factor=2)
            except OSError as error:
                raise UserError(
                    f"the charts cannot be written to {folder} ({error}): give another place with --png DIR"
                ) from None


def _write(page: str, path: Path) -> Path:
    """Write the page in one step, so that no reader sees half of it. Raises UserError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
        return path
    except OSError as error:
        raise UserError(
            f"the report cannot be written to {path} ({error}): give another place with --output FILE"
        ) from None
