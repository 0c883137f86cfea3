"""The tables of a ledger: the columns of each one, with their types and units.

An attempt at a trial leaves rows of the tables in SCHEMAS, which carry the names of the fields of `diffseg.trial.Outcome`
(`trials` is its `trial`). A search leaves rows of the tables in SEARCH_SCHEMAS. To add a table, add its schema here and a
field to Outcome: the worker's writing, reading and compaction follow.

Units: seconds, bytes, and metrics as fractions (IoU 0.87, not 87). What is undefined is NaN. The column `class` has the class
that a row measures, or "all": the mean over the classes, or all of them at once. Of a single class there are rows "all" only;
files of earlier versions have null in their place.
"""

import pyarrow as pa

from diffseg.evaluation.registry import METRICS
from diffseg.rows import Row

KEY = [
    ("trial", pa.string()),
    ("attempt", pa.int32()),
]  # the first columns of every table of attempts, except that `study` precedes them in `trials`
# fmt: off
SCHEMAS = {
    # One row an attempt. Further columns `config_*`, one for every leaf of the configuration, follow these.
    "trials": pa.schema([
        ("study", pa.string()), *KEY, ("digest", pa.string()), ("status", pa.string()),  # complete, failed or pruned
        ("experiment", pa.string()), ("dataset", pa.string()), ("network", pa.string()), ("seed", pa.int64()),
        ("configuration", pa.string()),                                 # digest of all settings but the seed
        ("role", pa.string()),                                          # see studies.definition.trial.ROLES
        ("scored_on", pa.string()),                                     # images of the metrics and errors: test or held-out
        ("config", pa.string()),                                        # canonical JSON
        *((metric, pa.float64()) for metric in METRICS),                # E1 and E2 only
        ("distance_unit", pa.string()),                                 # of hd95 and assd: mm or px
        ("left_out", pa.string()),                                      # JSON: metric to its number of NaN images, not in the mean
        ("samples", pa.float64()),                                      # per image, on which ged and the like depend
        ("evaluations", pa.float64()),                                  # of the network, per sample and tile, mean
        ("risk_threshold", pa.float64()), ("risk", pa.float64()),       # chosen by inference.risk, and the test patients' mean loss
        ("risk_units", pa.int64()),                                     # patients, or else images, by whom it was chosen
        ("steps", pa.int64()), ("micro_batch", pa.int64()),             # images that one worker trained on at once
        ("workers", pa.int64()), ("parameters", pa.int64()), ("trained", pa.string()),  # see Config.trained
        ("network_of", pa.string()),                                    # the trial whose training was reused, if not its own
        ("checkpoint", pa.string()),                                    # the file with which the training ended
        ("train_images", pa.int64()), ("test_images", pa.int64()),
        ("data_digest", pa.string()), ("scaling", pa.string()),         # JSON: how pixels became numbers, by channel
        ("labels", pa.string()),                                        # JSON: background and palette of masks of named classes
        ("seconds", pa.float64()), ("train_seconds", pa.float64()), ("evaluate_seconds", pa.float64()),
        ("gpu_seconds", pa.float64()), ("peak_memory_bytes", pa.int64()),
        ("precision", pa.string()), ("compiled", pa.bool_()), ("execution", pa.string()),  # of training
        ("device", pa.string()), ("host", pa.string()), ("git_commit", pa.string()), ("dirty", pa.bool_()),
        ("versions", pa.string()),                                      # JSON: package to version
        ("fingerprint", pa.string()),                                   # JSON: knots [log-SNR, weight] that weighted the training
        ("started", pa.timestamp("ms", "UTC")), ("finished", pa.timestamp("ms", "UTC")),
        ("error", pa.string()), ("log", pa.string()),                   # the error in one sentence; the log's path within the store
    ]),
    # Learning curves: loss, gradient_norm, learning_rate, step_seconds, idle_share … at training steps.
    "curves": pa.schema([*KEY, ("step", pa.int64()), ("metric", pa.string()), ("value", pa.float64())]),
    # Errors of the trained model over the noise levels. mask_error: mean squared error of the predicted clean mask in
    # units of masks in ±1 (0 to 4). dice_error: 1 − Dice of that mask. cross_entropy: of that mask, mean over the pixels,
    # nats. The three are NaN for E4. loss: mean squared error of the trained target. weight: effective weight W(λ) of the
    # noise level in training, on the squared error of ε per unit of log-SNR.
    "timesteps": pa.schema([*KEY, ("step", pa.int64()), ("class", pa.string()), ("t", pa.float64()), ("log_snr", pa.float64()),
                            ("mask_error", pa.float64()), ("dice_error", pa.float64()), ("cross_entropy", pa.float64()),
                            ("loss", pa.float64()), ("weight", pa.float64())]),
    # Fingerprints of an E3 trial's data set, of every kind (see diffseg/fingerprint/), at the levels of `timesteps`.
    # digest: of the data's content. size: px. coding: of the mask. error and error_smooth: mask_error, dice_error or
    # cross_entropy, as measured, and made monotone and smooth. derivative: of error_smooth by −log-SNR; derivative_t: by t.
    # weight: the kind's profile as a share of its greatest value.
    "fingerprints": pa.schema([*KEY, ("dataset", pa.string()), ("digest", pa.string()), ("size", pa.int64()),
                               ("coding", pa.string()), ("class", pa.string()), ("kind", pa.string()), ("t", pa.float64()),
                               ("log_snr", pa.float64()), ("error", pa.float64()), ("error_smooth", pa.float64()),
                               ("derivative", pa.float64()), ("derivative_t", pa.float64()), ("weight", pa.float64())]),
    # Metrics of single test images: those of diffseg/evaluation/registry.py that are not pooled, `samples`, `objects`, and the
    # GED of fewer samples. group: the patient or volume of the image, null if unknown.
    "images": pa.schema([*KEY, ("image", pa.string()), ("group", pa.string()), ("class", pa.string()),
                         ("metric", pa.string()), ("value", pa.float64())]),
    # Reliability of the merged foreground probability of a test image, in ten equal bins, without the empty ones. The sums
    # over all images, weighted by count, give the ece of `trials`.
    "calibration": pa.schema([*KEY, ("image", pa.string()), ("group", pa.string()), ("class", pa.string()), ("bin", pa.int32()),
                              ("count", pa.int64()), ("confidence", pa.float64()), ("accuracy", pa.float64())]),
    # Pixels of a test image by their true class (of most raters) and the predicted one, of several exclusive classes; without
    # the pairs that do not occur. "background" is where no class is.
    "confusion": pa.schema([*KEY, ("image", pa.string()), ("group", pa.string()), ("truth", pa.string()),
                            ("predicted", pa.string()), ("count", pa.int64())]),
    # With inference.risk: mean loss over the patients, or else images, that chose the threshold (images "calibration") and of the
    # test images ("test"), at each threshold; and, with the patient's name as unit, that of each at the chosen one.
    "risks": pa.schema([*KEY, ("images", pa.string()), ("unit", pa.string()), ("threshold", pa.float64()), ("risk", pa.float64())]),
    # Small pictures of a few test images. kind: image, truth, mean or sd (of the ensemble; sd 0.5 is white).
    "examples": pa.schema([*KEY, ("image", pa.string()), ("class", pa.string()), ("kind", pa.string()), ("png", pa.binary())]),
}
SEARCH_SCHEMAS = {
    # What a search proposes. The row with the search's own seed is the proposal; rows with other seeds confirm it.
    "proposals": pa.schema([
        ("search", pa.string()), ("number", pa.int32()), ("seed", pa.int64()), ("trial", pa.string()),
        ("source", pa.string()),                                        # sampler, or name of a point tried first
        ("settings", pa.string()),                                      # JSON: leaves of the configuration by their path
        ("config", pa.string()), ("reason", pa.string()),               # canonical JSON; or why there is no such trial
    ]),
    # What a trial of a search has reached at a training step, by which others are pruned: the means of all metrics, whose
    # image is null, and the objectives of single held-out images. place: of the rung among those of the trial, from 0; step:
    # the training step, which differs between trials of other lengths. group: the patient or volume, null if unknown.
    "rungs": pa.schema([("search", pa.string()), ("step", pa.int64()), ("trial", pa.string()), ("metric", pa.string()),
                        ("image", pa.string()), ("group", pa.string()), ("value", pa.float64()),
                        ("place", pa.int64())]),
}
# Columns of `trials` that analyses compute with. They have these types in every file, and are null where a file lacks them.
COMMON_LEAVES = {
    "config_training_steps": pa.float64(), "config_diffusion_target": pa.string(), "config_diffusion_schedule": pa.string(),
    "config_inference_sampler": pa.string(), "config_inference_steps": pa.float64(), "config_inference_ensemble": pa.float64(),
}  # fmt: skip
NUMERIC_LEAVES = {"config_data_held_out": pa.float64(), "config_inference_settled": pa.float64()}  # if a file has them
# fmt: on


def attempt_table(table: str, trial: str, attempt: int, rows: list[Row]) -> pa.Table:
    """Return one attempt's rows of a table. Raises ValueError for a table or a column that the ledger does not have."""
    if table not in SCHEMAS:
        raise ValueError(f"the ledger has no table '{table}': allowed are {', '.join(SCHEMAS)}")
    keyed = [{"trial": trial, "attempt": attempt, **row} for row in rows]
    schema = _with_config_columns(SCHEMAS[table], keyed) if table == "trials" else SCHEMAS[table]
    return _table(table, keyed, schema)


def search_table(table: str, rows: list[Row]) -> pa.Table:
    """Return rows of a search's table. Raises ValueError for a table or a column that the ledger does not have."""
    if table not in SEARCH_SCHEMAS:
        raise ValueError(f"the ledger has no table '{table}' of searches: allowed are {', '.join(SEARCH_SCHEMAS)}")
    return _table(table, rows, SEARCH_SCHEMAS[table])


def _table(table: str, rows: list[Row], schema: pa.Schema) -> pa.Table:
    """Return rows as a table. Raises ValueError for unknown columns, which pyarrow would drop without a word."""
    if unknown := sorted({column for row in rows for column in row}.difference(schema.names)):
        raise ValueError(f"table '{table}' has no column '{unknown[0]}': allowed are {', '.join(schema.names)}")
    return pa.Table.from_pylist(rows, schema)


def _with_config_columns(schema: pa.Schema, rows: list[Row]) -> pa.Schema:
    """Return the schema with the rows' columns `config_*`."""
    kinds = {bool: pa.bool_(), int: pa.float64(), float: pa.float64()}  # a number may be whole in one trial only
    leaves = {key: value for row in rows for key, value in row.items() if key.startswith("config_")}
    for key, value in leaves.items():
        schema = schema.append(pa.field(key, kinds.get(type(value), pa.string())))
    return schema
