"""Fixtures that many tests use. They are small and fast: images of 16 px, a network of a few thousand weights."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import pytest
import torch

from diffseg.config import Config
from diffseg.data.packing import PackedImages
from diffseg.data.scaling import Scaling
from diffseg.data.splits import Split

hypothesis.settings.register_profile(  # the same examples in every run
    "diffseg", deadline=None, derandomize=True, max_examples=40
)
hypothesis.settings.load_profile("diffseg")
os.environ.pop("COLUMNS", None)  # which readline sets in the processes of pytest-xdist; commands read it
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="diffseg-tests-")  # no test reads or writes the user's cache
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
torch.set_num_threads(1)  # numbers must not depend on the number of processors

GOLDEN = 0.6180339887  # its multiples, without their whole parts, are spread evenly, whatever the number of them

TINY = {
    "data.size": 16,
    "data.train_images": 12,
    "data.test_images": 4,
    "network.width": 32,
    "network.multipliers": [1, 1],
    "network.blocks": 1,
    "network.attention": [2],
    "diffusion.target": "x0",
    "diffusion.activation": "tanh",
    "training.steps": 6,
    "training.batch": 4,
    "training.learning_rate": 1e-3,
    "training.precision": "float32",
    "training.log_every": 2,
    "training.checkpoint_every": 3,
    "inference.steps": 2,
    "inference.ensemble": 2,
    "inference.timesteps": 4,
    "inference.timestep_images": 4,
    "inference.examples": 1,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the cases of `sampled` tests as slow, but for as many as each says, spread over the order of its cases."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sampled") and not item.get_closest_marker("slow"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for own in cases.values():
        count: int = own[0].get_closest_marker("sampled").args[0]
        order = sorted(range(len(own)), key=lambda place: place * GOLDEN % 1)
        for place in order[count:]:
            own[place].add_marker("slow")


@pytest.fixture
def tiny():
    """A function that makes, from settings, a resolved configuration that trains in well under a second."""
    return lambda **leaves: (
        Config().with_leaves(TINY | {key.replace("__", "."): value for key, value in leaves.items()}).resolved()
    )


def split_of(images: list[torch.Tensor], masks: list[torch.Tensor]) -> Split:
    """Build a split of images uint8 [C, H, W] and masks uint8 [R, H, W] of any sizes, named 0, 1, …"""
    return Split(
        names=tuple(map(str, range(len(images)))),
        groups=(None,) * len(images),
        images=PackedImages.pack(images),
        masks=PackedImages.pack(masks),
        objects=(1,) * len(images),
        spacings=(None,) * len(images),
        originals=tuple(tuple(image.shape[1:]) for image in images),
        scaling=Scaling((0.0,), (255.0,), (0.0,), (1.0,)),
        standard=False,
        channels=3,
        device=torch.device("cpu"),
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The store of a finished study; tests that change it copy it (finished.copy_store)."""
    from finished import run_small_study

    return run_small_study(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def ray():
    """The address of a Ray with two CPUs that the tests of a file share."""

    from studies.engine.environment import set_environment

    set_environment(None)
    import ray

    context = ray.init(
        "local",
        num_cpus=2,
        resources={"driver": 100},
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        _temp_dir=tempfile.mkdtemp(prefix="tests-", dir="/tmp"),
    )
    yield context.address_info["address"]
    ray.shutdown()
    shutil.rmtree(context.address_info["session_dir"].rpartition("/")[0], ignore_errors=True)


def folder_of(variable: str) -> Path:
    """Return the folder that an environment variable names; skip the test if it is not set."""
    if not os.environ.get(variable):
        pytest.skip(f"{variable} is not set")
    return Path(os.environ[variable])


@pytest.fixture
def reference() -> Path:
    """The folder of outputs of the published networks."""
    return folder_of("DIFFSEG_REFERENCE")


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets."""
    return folder_of("DIFFSEG_DATA")
