"""Merging: the members of an ensemble as one map, by mean, votes or STAPLE, and several networks as one prediction."""

from dataclasses import dataclass
from typing import Any

import torch

from diffseg.config import Config
from diffseg.labels.labels import Labels


@dataclass(frozen=True)
class Prediction:
    """The ensemble's prediction of one image."""

    index: int  # of the image in its split
    mean: torch.Tensor  # merged probability of each class, float32 [K, H, W]
    sd: torch.Tensor  # standard deviation over the members, float32 [K, H, W], 0 to 0.5
    masks: torch.Tensor  # the members' masks of each class, bool [members, K, H, W]
    evaluations: torch.Tensor  # network evaluations per tile and member, mean, float32 []


def merge_members(index: int, members: torch.Tensor, evaluations: torch.Tensor, config: Config) -> Prediction:
    """Merge the probabilities [members, K, H, W] of one image by `inference.merge`.

    "mean" averages the probabilities. "vote" and "staple" merge the masks that each member decides on (`Labels.decide`).
    """
    inference, labels = config.inference, Labels.of(config)
    masks = labels.decide(members, inference.threshold)
    if inference.merge != "mean":
        members = masks.float()
    mean = staple(members, labels) if inference.merge == "staple" else members.mean(0)
    return Prediction(index, mean, members.std(0, correction=0), masks, evaluations)


def staple(masks: torch.Tensor, labels: Labels) -> torch.Tensor:
    """Return the probability of each class [K, H, W] given masks [members, K, H, W] of 0 and 1 (Warfield et al., 2004).

    Exclusive classes are merged at once, others each on its own.
    """
    if labels.several:
        return _staple_of_classes(masks)
    return torch.stack([_staple_of_one(own) for own in masks.unbind(1)])


def _staple_of_one(masks: torch.Tensor) -> torch.Tensor:
    """Return the foreground probability [H, W] given masks [members, H, W] of 0 and 1."""
    import SimpleITK

    if (masks == masks[:1]).all():  # STAPLE cannot estimate the members' performance if they all agree
        return masks[0]
    votes = [SimpleITK.GetImageFromArray(mask) for mask in masks.byte().cpu().numpy()]
    found = SimpleITK.STAPLE(votes, 1.0)  # type: ignore[no-untyped-call]  # SimpleITK has no types
    return torch.from_numpy(SimpleITK.GetArrayFromImage(found)).to(masks)


def _staple_of_classes(masks: torch.Tensor) -> torch.Tensor:
    """Return the probability of each exclusive class [K, H, W] given masks [members, K, H, W] of 0 and 1.

    SimpleITK estimates the members' confusion matrices and the classes' shares. The probabilities follow from these by
    Bayes' rule, the last step of its expectation–maximisation.
    """
    import SimpleITK

    if (masks == masks[:1]).all():  # STAPLE cannot estimate the members' performance if they all agree
        return masks[0]
    numbers = torch.where(masks.any(1), masks.argmax(1) + 1, 0)  # 0: background
    present, places, counts = torch.unique(numbers, return_inverse=True, return_counts=True)
    shares = counts.double() / counts.sum()
    sitk: Any = SimpleITK  # which has no types
    estimate = sitk.MultiLabelSTAPLEImageFilter()
    estimate.SetPriorProbabilities(shares.tolist())
    estimate.Execute([sitk.GetImageFromArray(one) for one in places.byte().cpu().numpy()])
    tables = [estimate.GetConfusionMatrix(member) for member in range(len(masks))]
    confusion = torch.tensor(tables, dtype=torch.float64, device=masks.device).view(len(masks), -1, len(present))
    logs = confusion.clamp(min=torch.finfo(confusion.dtype).tiny).log()  # [members, decided class, true class]
    votes = sum(own[place] for own, place in zip(logs, places, strict=True))
    posterior = (votes + shares.log()).softmax(-1).to(masks.dtype)  # [H, W, true class]
    found = torch.zeros_like(masks[0])
    for column, number in enumerate(present.tolist()):
        if number:
            found[number - 1] = posterior[..., column]
    return found


def pool_predictions(parts: list[Prediction]) -> Prediction:
    """Pool the predictions of several networks for one image, with equal weights.

    The standard deviation is that of all their members together.
    """
    means, deviations, evaluations = (
        torch.stack([getattr(part, name) for part in parts]) for name in ("mean", "sd", "evaluations")
    )
    spread = (deviations.square().mean(0) + means.var(0, correction=0)).sqrt()
    masks = torch.cat([part.masks for part in parts])
    return Prediction(parts[0].index, means.mean(0), spread, masks, evaluations.mean())
