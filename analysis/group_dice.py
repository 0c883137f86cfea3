"""The Dice of whole groups (patients, volumes): pooled over the pixels of a group's images, as 3-D segmentation reports it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import pyarrow.dataset as ds

from studies.store.classes import ALL

if TYPE_CHECKING:
    from analysis.tables import Tables

NAME = "dice_group"  # the metric's name in tables of the analysis
TITLE = "Dice by patient or volume"
PIXELS = ["true_pixels", "predicted_pixels", "shared_pixels"]  # metrics of the table `images`


def measure_group_dice(tables: Tables, of_class: str = ALL) -> dict[tuple[str, str], pd.Series]:
    """Return the Dice of each group, by trial (study, name).

    2 Σ |P ∩ Y| / Σ (|P| + |Y|) with sums over the group's images; 1 if no image has a pixel of the class in P or Y. An image
    without a group is a group of its own. Trials that know no group, or whose version did not count pixels, are left out.

    Args:
        tables: The trials.
        of_class: The class; "all" for the mean over the classes.
    """
    columns, where = ["image", "group", "metric", "value"], ds.field("metric").isin(PIXELS)
    rows = tables.frame("images", columns, where, None if of_class == ALL else of_class)
    if of_class == ALL:  # rows of all of several classes are means of counts
        named = (rows["class"] != ALL).groupby([rows["study"], rows["trial"]]).transform("any")
        rows = rows[~named | (rows["class"] != ALL)]
    else:
        rows = rows.assign(**{"class": of_class})
    known = rows["group"].notna().groupby([rows["study"], rows["trial"]]).transform("any")
    rows = rows[known]
    rows = rows.assign(group=rows["group"].fillna("image " + rows["image"]))
    groups = rows.groupby(["study", "trial", "class", "group", "metric"], sort=False, observed=True)
    sums = groups["value"].sum(min_count=1).unstack("metric").reindex(columns=PIXELS)
    both = sums["true_pixels"] + sums["predicted_pixels"]
    dice = (2 * sums["shared_pixels"] / both).mask(both == 0, 1.0)
    means = dice.groupby(["study", "trial", "group"], sort=False).mean().dropna()
    return {
        (study, trial): own.droplevel(["study", "trial"])
        for (study, trial), own in means.groupby(["study", "trial"], sort=False)
    }
