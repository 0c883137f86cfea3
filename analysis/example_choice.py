"""Which of the example pictures that a ledger has are shown: those of the worst, the middle and the best IoU."""

import pandas as pd

from analysis.frames import GROUP
from analysis.series import EXPERIMENTS
from analysis.tables import Tables

NAMES = ("worst", "middle", "best")


def choose_examples(tables: Tables) -> pd.DataFrame:
    """Return the rows of Tables.examples that are shown, by each series' first seed, the worst image of a data set first.

    The IoU of an image is the mean over the series that have it as an example. Images without an IoU come last, in their order.
    The column `label` names the image with its rank and the IoU (%) of each experiment, in lines separated by "|".
    """
    rows = tables.examples
    rows = rows[rows["seed"] == rows.groupby(GROUP)["seed"].transform("min")]
    found = [_choose(own, tables) for _, own in rows.groupby("dataset", sort=True)]
    return pd.concat(found) if found else rows.assign(label="")


def _choose(rows: pd.DataFrame, tables: Tables) -> pd.DataFrame:
    """Return the shown rows of one data set."""
    key = ["study", "trial", "image"]
    ious = tables.images[tables.images["metric"] == "iou"].astype({"image": str})
    ious = rows[[*key, "experiment"]].drop_duplicates().merge(ious[[*key, "value"]], on=key)
    mean = ious.groupby("image")["value"].mean().dropna().sort_values(kind="stable")
    images = list(mean.index) or list(dict.fromkeys(rows["image"]))
    places = sorted({0, len(images) // 2, len(images) - 1})
    shown = [images[place] for place in places]
    ranks = dict(zip(shown, NAMES if len(shown) == len(NAMES) else [NAMES[0], NAMES[-1]], strict=False))
    labels = {}
    for image in shown:
        own = ious[ious["image"] == image].groupby("experiment")["value"].mean()
        numbers = [f"{EXPERIMENTS[name].split()[0]} IoU {100 * iou:.0f} %" for name, iou in own.items()]
        labels[image] = "|".join([*([ranks[image]] if len(mean) > 1 else []), image[:22], *numbers])
    order = {image: place for place, image in enumerate(shown)}
    kept = rows[rows["image"].isin(shown)]
    kept = kept.assign(label=kept["image"].map(labels), order=kept["image"].map(order))
    return kept.sort_values("order", kind="stable").drop(columns="order")
