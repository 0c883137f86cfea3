"""The numbers of "Analysing Diffusion Segmentation for Medical Images" (Öttl et al., 2024), beside a study's own."""

import pandas as pd

from studies.store.classes import ALL

# Table 1 as it is printed: IoU in percent and ECE of E1, then of E2
TABLE1 = {
    "isic16": {
        "nnunet": (84.48, 0.147), "segformer": (88.34, 0.024), "ensemdiff": (84.92, 0.019, 86.59, 0.007),
        "segdiff": (85.86, 0.020, 86.39, 0.017), "medsegdiff": (83.22, 0.029, 83.73, 0.017),
    },
    "monuseg": {
        "nnunet": (71.43, 0.050), "segformer": (62.95, 0.055), "ensemdiff": (63.90, 0.061, 64.64, 0.041),
        "segdiff": (63.44, 0.059, 64.57, 0.038), "medsegdiff": (62.51, 0.055, 63.05, 0.085),
    },
    "her2": {
        "nnunet": (80.00, 0.104), "segformer": (80.36, 0.056), "ensemdiff": (72.57, 0.075, 73.70, 0.018),
        "segdiff": (74.90, 0.063, 72.80, 0.011), "medsegdiff": (70.04, 0.086, 67.10, 0.017),
    },
}  # fmt: skip
COLUMNS = ("iou_e1", "ece_e1", "iou_e2", "ece_e2")
UNITS = {"iou": 100, "ece": 1}  # of a printed number, for a fraction of 1


def add_paper_numbers(table1: pd.DataFrame) -> pd.DataFrame:
    """Return Table 1 with columns paper_iou_e1, … of the paper's numbers as fractions.

    The paper has numbers for the data sets (by name) and networks of TABLE1. Rows of single classes have none.
    """
    rows = [
        {"dataset": dataset, "network": network}
        | {f"paper_{name}": value / UNITS[name[:3]] for name, value in zip(COLUMNS, values, strict=False)}
        for dataset, networks in TABLE1.items()
        for network, values in networks.items()
    ]
    published = pd.DataFrame(rows).assign(**{"class": ALL})
    return table1.merge(published, on=["dataset", "network", "class"], how="left")
