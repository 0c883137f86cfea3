"""Configurations known to be good, which every search proposes before all others.

Each is named after its source and given as settings of `diffusion`, by their dotted paths. A point sets every choice that
the space `everything` varies, so that it is the same whatever configuration the search starts from.
"""

from typing import Any

_COMMON = {
    "diffusion.log_snr_min": -20.0,
    "diffusion.ends": "limited",
    "diffusion.self_conditioning": False,
    "diffusion.loss": "mse",
    "diffusion.decoupled": False,
    "diffusion.density": "uniform",
}

INITIAL_POINTS: dict[str, dict[str, Any]] = {
    # The baseline: Öttl et al., 2024, and the networks that they study train ε on the linear schedule.
    "paper: ε, linear": {
        "diffusion.schedule": "linear",
        "diffusion.input_scale": 1.0,
        "diffusion.target": "epsilon",
        "diffusion.activation": "identity",
        "diffusion.weighting": "target",
        **_COMMON,
    },
    # Christensen et al., 2025: more noise by input scaling, and x0 or v as target in place of ε.
    "x0 with tanh, cosine b = 0.1": {
        "diffusion.schedule": "cosine",
        "diffusion.input_scale": 0.1,
        "diffusion.target": "x0",
        "diffusion.activation": "tanh",
        "diffusion.weighting": "snr+1",
        **_COMMON,
    },
    "v, cosine b = 0.1": {
        "diffusion.schedule": "cosine",
        "diffusion.input_scale": 0.1,
        "diffusion.target": "v",
        "diffusion.activation": "identity",
        "diffusion.weighting": "target",
        **_COMMON,
    },
}
