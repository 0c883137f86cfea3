"""Pictures of masks of several classes: the classes' colours over the image, and the examples of a ledger."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from several import CLASSES, split_classes, with_classes, write_study
from test_report import configs, values

from analysis import pictures, tables
from analysis.overlays import CLASS_COLOURS, choose_colours, decide, draw_overlay, paint
from diffseg.config import Config

NAMES = tuple(CLASSES)


@pytest.mark.parametrize("regions", [False, True])
def test_classes_are_decided_as_in_the_evaluation(regions):
    import torch

    from diffseg.labels.labels import Labels

    config = with_classes(Config(), {"organ": [1, 2], "lesion": [2]} if regions else CLASSES, data__regions=regions)
    draw = np.random.default_rng(0)
    maps = draw.dirichlet((1, 1, 1), (6, 7)).transpose(2, 0, 1)[1:]
    expected = Labels.of(config).decide(torch.from_numpy(maps), 0.4).numpy()
    assert np.array_equal(decide(maps, not regions, 0.4), expected)
    assert expected.any((1, 2)).all()


def test_a_class_is_filled_and_its_contour_is_opaque():
    masks = np.zeros((2, 9, 9), bool)
    masks[0, 1:8, 1:8] = masks[1, 3:6, 3:6] = True
    drawn = np.asarray(draw_overlay(Image.new("L", (18, 18), 100), masks, ["#FF0000", "#0000FF"]))
    assert drawn.shape == (9, 9, 3)
    assert drawn[0, 0].tolist() == [100, 100, 100]
    assert drawn[1, 4].tolist() == [255, 0, 0]
    assert drawn[3, 4].tolist() == [0, 0, 255]
    assert drawn[2, 4].tolist() == [154, 65, 65]  # 0.35 of red over grey


def test_every_class_has_a_colour_of_its_own():
    names = [f"class {k}" for k in range(3 * len(CLASS_COLOURS))]
    colours = choose_colours(names)
    assert list(colours.values())[: len(CLASS_COLOURS)] == CLASS_COLOURS
    assert len(set(colours.values())) == len(names)
    assert len(choose_colours([*names, "one more"])) == len(names) + 1


def picture(**masks):
    """A PNG [16, 16] with a value in the rows of a mask."""
    pixels = np.zeros((16, 16), np.uint8)
    for value, rows in masks.values():
        pixels[rows] = value
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def drawn_examples(config, rows):
    """Two classes: the truth is rows 0-7 and 8-15; predicted are rows 0-3 and 8-15; a half of rows 4-7 is the first's."""
    pngs = {
        ("all", "image"): picture(),
        ("organ", "truth"): picture(a=(255, slice(0, 8))),
        ("lesion", "truth"): picture(a=(255, slice(8, 16))),
        ("organ", "mean"): picture(a=(230, slice(0, 4)), b=(102, slice(4, 8))),
        ("lesion", "mean"): picture(a=(230, slice(8, 16))),
        ("organ", "sd"): picture(a=(51, slice(0, 8))),
        ("lesion", "sd"): picture(a=(102, slice(4, 16))),
    }
    rows = split_classes(rows, lambda table, row, number: row)
    if "examples" in rows:
        rows["examples"] = [
            {"image": name, "class": label, "kind": kind, "png": png}
            for name in ("one", "two")
            for (label, kind), png in pngs.items()
        ]
    return rows


@pytest.fixture(scope="module")
def exemplified(tmp_path_factory):
    chosen = [with_classes(config) for config in configs(("e1", "e2", "e3"), ("x0",))]
    return tables.load([write_study(tmp_path_factory.mktemp("examples"), chosen, drawn_examples)])


def sources(chart):
    return {(row["image"], row["words"]): row["src"] for row in values(chart) if "src" in row}


def pixels_of(source):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))))


def test_examples_are_drawn_in_the_colours_of_classes_with_a_legend(exemplified):
    chart = pictures.ensembles(exemplified)
    found = sources(chart)
    series = sorted(exemplified.trials.loc[exemplified.trials["experiment"].isin(["e1", "e2"]), "series"].unique())
    columns = ["image", "truth", *(f"{one}, {kind}" for one in series for kind in ("prediction", "sd"))]
    assert list(dict.fromkeys(label for _, label in found)) == columns
    assert {image for image, _ in found} == {"one", "two"}
    true, predicted = pixels_of(found["one", "truth"]), pixels_of(found["one", f"{series[0]}, prediction"])
    organ, lesion = ([int(CLASS_COLOURS[k][i : i + 2], 16) for i in (1, 3, 5)] for k in (0, 1))
    assert true[0, 5].tolist() == true[7, 5].tolist() == predicted[3, 5].tolist() == organ
    assert true[15, 5].tolist() == predicted[8, 5].tolist() == lesion
    assert predicted[5, 5].tolist() == [0, 0, 0]  # background is more probable than 0.4
    deviation = pixels_of(found["one", f"{series[0]}, sd"])
    scale = np.asarray(paint(np.array([[51, 102]]) / 255))[0]
    assert [deviation[row, 0].tolist() for row in (2, 5, 12)] == scale[[0, 1, 1]].tolist()
    legends = [row["class"] for row in values(chart) if "class" in row]
    assert legends[:2] == list(NAMES)
    errors = sources(pictures.error_maps(exemplified))
    assert pixels_of(errors["one", f"{series[0]}, error"])[[0, 5, 9], 0].tolist() == [25, 153, 25]
    rows = {image for image, _ in sources(pictures.forward_process(exemplified))}
    assert rows == {"image", "mask: organ", "mask: lesion"}
