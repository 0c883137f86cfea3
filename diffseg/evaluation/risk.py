"""Decisions with a guarantee: the threshold at which the expected risk of a new patient is at most a level.

Conformal risk control (Angelopoulos et al., 2024): of n patients that training has not seen, and that are exchangeable with
the new one, with losses L_i(τ) from 0 to 1 that do not fall with the threshold τ, the greatest τ with

    n/(n + 1) · mean L_i(τ) + 1/(n + 1) ≤ level

has an expected loss of at most the level. The loss of a patient is the share of the mask's pixels, over all of the patient's
images, that is not marked (fnr). Images without a known patient count as one each.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from diffseg.config import Config
from diffseg.data.partition import list_units
from diffseg.data.splits import Split
from diffseg.errors import DataError
from diffseg.evaluation.truth import read_truth
from diffseg.nouns import noun
from diffseg.prediction.merging import Prediction
from diffseg.rows import Row

EVERYTHING = -1.0  # a threshold that marks every pixel
THRESHOLDS = (EVERYTHING, *(step / 1000 for step in range(1000)))  # that are tried, rising
ROUNDING = 1e-12  # by which sums of losses may miss a limit that they meet


@dataclass(frozen=True)
class Risks:
    """The losses of patients at every threshold."""

    units: tuple[str, ...]  # the patients
    losses: torch.Tensor  # float64 [U, thresholds], on the CPU

    def mean_at(self, threshold: float) -> float:
        """Return the mean loss at one of the thresholds."""
        return self.losses[:, _place(threshold)].mean().item()

    def rows(self, images: str, chosen: float) -> list[Row]:
        """Return rows of the ledger's table `risks`: the means at every threshold, and each patient's loss at the chosen one.

        images: "calibration" or "test".
        """
        means = zip(THRESHOLDS, self.losses.mean(0).tolist(), strict=True)
        own = zip(self.units, self.losses[:, _place(chosen)].tolist(), strict=True)
        return [
            {"images": images, "unit": unit, "threshold": threshold, "risk": risk}
            for unit, threshold, risk in (
                *((None, threshold, risk) for threshold, risk in means),
                *((unit, chosen, risk) for unit, risk in own),
            )
        ]


class RiskCounter:
    """Counts, patient by patient, the pixels of masks and those that each threshold leaves out. They stay on the device."""

    def __init__(self, split: Split, config: Config):
        """Count for images of a split."""
        self.split, self.config = split, config
        self._thresholds = torch.tensor(
            THRESHOLDS, device=split.device
        )  # float32, as probabilities are compared with them
        names = list_units(split)
        places = {unit: place for place, unit in enumerate(dict.fromkeys(names))}
        self.units, self._places = tuple(places), [places[name] for name in names]
        self._counts = torch.zeros(len(places), len(THRESHOLDS) + 1, dtype=torch.float64, device=split.device)

    def count(self, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        """Pass on predictions of the split's images, and count each."""
        for prediction in predictions:
            image = read_truth(prediction, self.split, self.config)
            truth = 2 * image.raters.sum(0) > len(image.raters)  # of most raters, [K, H, W]
            counted = truth if image.valid is None else truth & image.valid
            below = torch.searchsorted(
                self._thresholds, prediction.mean.contiguous()
            )  # the thresholds that mark the pixel
            found = torch.zeros_like(self._counts[0])
            found.scatter_add_(0, below.flatten(), counted.flatten().double())
            self._counts[self._places[prediction.index]] += found
            yield prediction

    def risks(self) -> Risks:
        """Return the losses of all patients: the shares of their masks that are not marked; 0 where the masks are empty."""
        counts = self._counts.cpu()
        return Risks(self.units, counts.cumsum(1)[:, :-1] / counts.sum(1, keepdim=True).clamp(min=1))


def measure_risks(predictions: Iterable[Prediction], split: Split, config: Config) -> Risks:
    """Return the losses of a split's patients."""
    counter = RiskCounter(split, config)
    for _ in counter.count(predictions):
        pass
    return counter.risks()


def choose_threshold(risks: Risks, level: float) -> float:
    """Return the greatest threshold whose bound on the expected loss is at most the level.

    There is one if `check_units` finds enough patients: at the least threshold, which marks every pixel, there is no loss.
    """
    count = len(risks.units)
    bounds = (risks.losses.sum(0) + 1) / (count + 1)
    return THRESHOLDS[int((bounds <= level + ROUNDING).sum()) - 1]


def check_units(split: Split, config: Config) -> None:
    """Raise DataError if there are too few patients for the level."""
    if sentence := describe_few_units(len(set(list_units(split))), config):
        raise DataError(sentence)


def describe_few_units(units: int, config: Config) -> str | None:
    """Return a sentence if a threshold cannot be chosen by so few patients or images: without any loss, the bound is 1/(n + 1)."""
    level = config.inference.risk.level
    needed = math.ceil(1 / level - 1 - ROUNDING)
    if units >= needed:
        return None
    which = noun(units, "patient or image", "patients or images")
    return (
        f"data.calibration={config.data.calibration:g} leaves {units} {which} of {config.data.name} to choose the "
        f"threshold by, but inference.risk.level={level:g} needs {needed}: raise one of them"
    )


def with_threshold(config: Config, threshold: float) -> Config:
    """Return a configuration that cuts masks at another threshold. It is no trial's: its digest is another."""
    inference = config.inference.model_copy(update={"threshold": threshold})
    return config.model_copy(update={"inference": inference})


def _place(threshold: float) -> int:
    return THRESHOLDS.index(threshold)
