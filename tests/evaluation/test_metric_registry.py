import subprocess
import sys
from importlib import import_module

import pytest

from diffseg.evaluation.registry import MEASURES, METRICS, Metric
from studies.search.search import Search
from studies.store.tables import SCHEMAS


@pytest.mark.parametrize("metric", MEASURES.values(), ids=list(MEASURES))
def test_an_entry_names_a_function_and_says_what_it_is(metric):
    module, _, name = metric.function.partition(":")
    assert callable(getattr(import_module(module), name))
    assert metric.definition.endswith(".")
    assert metric.larger_is_better is not None or not metric.ranks


def test_the_columns_of_trials_are_the_metrics_and_have_those_of_earlier_versions():
    """Ledgers of earlier versions are read, and read by earlier versions."""
    assert {
        "iou", "dice", "ece", "brier", "nll", "iou_raters", "dice_raters", "ged", "ged_unbiased", "hm_iou", "ncc",
    } <= set(METRICS)  # fmt: skip
    names = SCHEMAS["trials"].names
    first = names.index("iou")
    assert names[first : first + len(METRICS)] == list(METRICS)
    smaller = {name for name, metric in METRICS.items() if not metric.larger_is_better}
    assert smaller == {"hd95", "assd", "ece", "ece_top", "ace", "mce", "brier", "nll", "ged", "ged_unbiased"}


def test_ranges_in_words():
    words = {
        name: MEASURES[name].range for name in ("iou", "hd95", "nll", "variance", "true_pixels", "ged_unbiased", "ncc")
    }
    assert words == {
        "iou": "0 to 1",
        "hd95": "0 to the image's diagonal,",
        "nll": "0 to 13.8",
        "variance": "0 to 0.25",
        "true_pixels": "0 and above",
        "ged_unbiased": "−0.5 to 2",
        "ncc": "−1 to 1",
    }


def test_a_loss_is_less_where_a_metric_is_better():
    assert METRICS["iou"].loss(0.8) == -0.8
    assert METRICS["ece"].loss(0.1) == 0.1


def test_searches_take_every_metric_as_their_objective():
    for name in METRICS:
        assert Search(space="schedule", objective=(name,)).objective == (name,)


def test_the_registry_is_read_without_torch_or_pyarrow():
    script = (
        "import sys, diffseg.evaluation.registry; print({'torch', 'pyarrow', 'numpy', 'pydantic'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
    assert isinstance(MEASURES["iou"], Metric)
