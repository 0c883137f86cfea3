"""A small finished study, run without Ray, for tests of commands that read one."""

import hashlib
import shutil
from pathlib import Path

from studies.definition.reading import read_study
from studies.definition.study import Study
from studies.engine.request import build_request
from studies.engine.resources import Resources
from studies.engine.worker import run_trial
from studies.store.ledger import Ledger

STUDY = """
    baseline = "plain"
    experiments = ["e1", "e2", "e3"]
    [all]
    training.steps = 6
    training.batch = 4
    training.log_every = 2
    training.checkpoint_every = 3
    training.precision = "float32"
    data.size = 16
    data.train_images = 12
    data.test_images = 4
    diffusion.target = "x0"
    diffusion.activation = "tanh"
    inference.steps = 2
    inference.ensemble = 2
    inference.timesteps = 4
    inference.timestep_images = 4
    [network.ensemdiff]
    network.width = 32
    network.multipliers = [1, 1]
    network.blocks = 1
    network.attention = [2]
    [data.synthetic-large]
    data.layout = "synthetic"
    [variant.plain]
    [variant.pooled]
    inference.seeds = [0, 1]
"""


def run_small_study(place: Path) -> Path:
    """Run STUDY, named small, in the store `place`/store, and return the store. Its TOML file is `place`/small.toml."""
    (place / "small.toml").write_text(STUDY)
    study = read_study(str(place / "small.toml"), {}, {}, command="diffseg run small.toml")
    ledger = Ledger(str(place / "store"), "small")
    ledger.define(study.definition())
    for trial in study.trials:
        assert run_trial(build_request(study, ledger, Resources(gpus=0), (None, False), trial)) == "complete"
    return place / "store"


def trial_of(store: Path, experiment: str, seeds: tuple[int, ...] = (0,)) -> str:
    """Return the name of the study's trial with one seed, or of its deep ensemble of several seeds."""
    study: Study = read_study(str(store.parent / "small.toml"), {}, {})
    return next(
        one.name
        for one in study.trials
        if one.config.experiment == experiment and (one.config.inference.seeds or (one.config.seed,)) == seeds
    )


def copy_store(store: Path, place: Path) -> Path:
    """Copy the store to another place and return the copy, which may be damaged."""
    shutil.copytree(store.parent, place)
    return place / store.name


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file below, and an empty text for every folder, by path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }
