"""The settings that each experiment fixes, and those that it does not use, by their dotted paths."""

from typing import Any, Literal

from diffseg.config.diffusion import Diffusion
from diffseg.config.head import Head
from diffseg.config.inference import MEASURED, Inference
from diffseg.section import Section

Experiment = Literal["e1", "e2", "e3", "e4"]


def _all_but(name: str, section: type[Section], used: set[str]) -> tuple[str, ...]:
    """Return the paths of a section's settings, without those that are used."""
    return tuple(f"{name}.{key}" for key in section.model_fields if key not in used)


PAPER: dict[str, Any] = {  # settings of the measurements in Öttl et al., 2024
    "diffusion.loss": "mse",
    "diffusion.weighting": "target",
    "diffusion.decoupled": False,
    "diffusion.density": "uniform",
    "diffusion.variance": "small",
    "diffusion.self_conditioning": False,
    "diffusion.recycling": 0.0,
    "diffusion.input_perturbation": 0.0,
}
MEASUREMENT = (
    "training.validation",
    "training.evaluations",
    "training.ema_copies",
    *_all_but("inference", Inference, MEASURED),
)

HEAD = _all_but("head", Head, set())

FIXED: dict[str, dict[str, Any]] = {
    "e1": {"training.snapshots": ()},
    "e2": {},
    "e3": PAPER | {"diffusion.target": "x0"},
    "e4": PAPER | {"diffusion.target": "epsilon", "diffusion.coding": "pm1"},
}
IGNORED: dict[str, tuple[str, ...]] = {
    "e1": (
        *_all_but("diffusion", Diffusion, {"steps", "time"}),
        *(
            f"inference.{key}"
            for key in ("sampler", "eta", "steps", "grid", "curve", "epsilon_scale", "settled", "clip")
        ),
        *("inference.timesteps", "inference.timestep_images"),
    ),
    "e2": (*HEAD, "training.validation", "inference.seeds", "inference.dropout"),
    "e3": (*HEAD, *MEASUREMENT),
    "e4": (*HEAD, *MEASUREMENT),
}


def covers(paths: tuple[str, ...], path: str) -> bool:
    """Return whether a setting is one of `paths`, or in one of the sections among them."""
    return any(path == one or path.startswith(f"{one}.") for one in paths)
