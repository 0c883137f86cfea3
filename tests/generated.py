"""Ledgers of any size with random numbers, to measure how long reading takes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from test_report import attempt

from diffseg.config import Config
from studies.definition.study import Study
from studies.definition.trial import Trial, trial_name
from studies.engine.provenance import package_versions
from studies.store.classes import has_classes
from studies.store.ledger import Ledger
from studies.store.tables import SCHEMAS, attempt_table

NETWORKS = ("ensemdiff", "segdiff", "medsegdiff")
METRICS = ("iou", "dice", "brier", "nll", "ece_image", "ece_boundary", "ece_foreground", "variance")


def generate(store: Path, trials: int, timesteps: int, images: int) -> Ledger:
    """Write a study of E1 to E4 with three networks, and return its ledger.

    Every trial except those of E1 has `timesteps` rows over the noise levels. Trials of E1 and E2 have METRICS of `images`
    test images. All values are drawn at random.
    """
    ledger = Ledger(str(store), "generated")
    made = {}
    for number in range(trials):
        experiment = ("e2", "e2", "e2", "e2", "e2", "e2", "e1", "e3", "e4", "e2")[number % 10]
        leaves = {
            "experiment": experiment,
            "seed": number // 1000,  # 1000 configurations
            "network": NETWORKS[number % 3],
            "data.name": "isic16",
            "diffusion.target": "x0",
            "diffusion.input_scale": 1 / (1 + number % 1000),
            "training.learning_rate": 1e-5 * (1 + number % 1000),
        }
        config = Config().with_leaves(leaves).resolved()
        made[trial_name(config)] = config
    ledger.define(Study("generated", tuple(Trial(*item) for item in made.items()), {}).definition())
    for table in SCHEMAS:
        (store / "generated" / table).mkdir(parents=True, exist_ok=True)

    def write(item) -> None:
        number, (name, config) = item
        for table, found in _tables(number, name, config, timesteps, images).items():
            pq.write_table(found, store / "generated" / table / f"{name}-1.parquet", compression="zstd")

    with (
        mock.patch("studies.engine.records.package_versions", return_value=package_versions()),
        ThreadPoolExecutor() as pool,
    ):
        list(pool.map(write, enumerate(made.items())))  # the packages' versions take longest to find
    return ledger


def _tables(number: int, name: str, config: Config, timesteps: int, images: int) -> dict[str, pa.Table]:
    draw = np.random.default_rng(number)
    rows = attempt(config, name)
    (row,) = rows.pop("trials")
    segments = config.experiment in ("e1", "e2")
    row |= {"iou": draw.uniform(0.5, 0.9), "ece": draw.uniform(0.01, 0.2)} if segments else {}
    found = {"trials": attempt_table("trials", name, 1, [row])}
    for table in ("curves", "calibration"):
        if rows.get(table):
            found[table] = attempt_table(table, name, 1, rows[table])
    if config.experiment != "e1":
        t = np.tile(np.arange(1, timesteps // 2 + 1) / (timesteps // 2), 2)
        columns = {
            "step": np.repeat([75, 100], timesteps // 2),
            "t": t,
            "log_snr": 10 - 20 * t,
            **{
                name: t * draw.uniform(0.9, 1.1, len(t))
                for name in ("mask_error", "dice_error", "cross_entropy", "loss", "weight")
            },
        }
        found["timesteps"] = _of(name, columns, "timesteps")
    if segments:
        names = [f"image-{k:04d}" for k in range(images)]
        columns = {
            "image": np.repeat(names, len(METRICS)),
            "group": np.repeat([f"patient-{k // 4}" for k in range(images)], len(METRICS)),
            "metric": np.tile(METRICS, images),
            "value": draw.uniform(0, 1, images * len(METRICS)),
        }
        found["images"] = _of(name, columns, "images")
    return found


def _of(name: str, columns: dict, table: str) -> pa.Table:
    count = len(next(iter(columns.values())))
    columns = {"trial": [name] * count, "attempt": [1] * count, **columns}
    columns |= {"class": ["all"] * count} if has_classes(table) else {}
    return pa.table(columns, schema=SCHEMAS[table])
