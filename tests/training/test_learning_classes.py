"""Classes are learnt in every coding, with and without the diffusion, from images whose colours tell them."""

import pytest
import torch
from label_kinds import KINDS, draw_coloured

from diffseg.labels.classes import IGNORED
from diffseg.labels.labels import Labels
from diffseg.prediction.ensembles import predict_split
from diffseg.training.hooks import Hooks
from diffseg.training.loop import train
from diffseg.training.state import start_or_resume

SETTINGS = {
    "E1": {"experiment": "e1"},
    "pm1": {"diffusion.coding": "pm1"},
    "01 and softmax": {"diffusion.coding": "01", "diffusion.activation": "sigmoid", "diffusion.loss": "cross-entropy"},
    "bits": {"diffusion.coding": "bits"},
    "sdf": {"diffusion.coding": "sdf"},
    "ε": {"diffusion.target": "epsilon", "inference.steps": 20},
    "with self-conditioning": {"diffusion.self_conditioning": True},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "setting"),
    [*(("five", setting) for setting in SETTINGS), *(("regions", setting) for setting in ("E1", "pm1", "sdf"))],
)
def test_classes_are_learnt(kind, setting, tiny, tmp_path):
    leaves = {"training.steps": 80, "training.batch": 8, "training.learning_rate": 3e-3, "training.ema": 0.8}
    leaves |= (
        {"inference.steps": 4, "diffusion.schedule": "cosine", "data.ignore": 77} | KINDS[kind] | SETTINGS[setting]
    )
    config = tiny(**{path.replace(".", "__"): value for path, value in leaves.items()})
    training, test = draw_coloured(config, 24, seed=0), draw_coloured(config, 4, seed=1)
    state = start_or_resume(config, tmp_path, torch.device("cpu"))
    train(config, training, state, tmp_path, lambda state: [], (), Hooks())
    labels, right = Labels.of(config), []
    for prediction in predict_split(state.average, test, config):
        numbers = test.masks[prediction.index]
        assert prediction.mean.shape == (labels.classes.count, 16, 16)
        agree = (labels.decide(prediction.mean, 0.5) == labels.class_masks(numbers)[0])[:, numbers[0] != IGNORED]
        right.append(agree.all(0).float().mean())
    assert torch.stack(right).mean() > 0.6  # chance is a sixth to a fourth
