"""Merging: the members of an ensemble as one map, by mean, votes or STAPLE, and several networks as one prediction."""

from dataclasses import dataclass

import torch

from diffseg.config import Inference


@dataclass(frozen=True)
class Prediction:
    """The ensemble's prediction of one image."""

    index: int  # of the image in its split
    mean: torch.Tensor  # merged foreground probability, float32 [H, W]
    sd: torch.Tensor  # standard deviation over the members, float32 [H, W], 0 to 0.5
    masks: torch.Tensor  # the members' maps cut at the threshold, bool [members, H, W]
    evaluations: torch.Tensor  # network evaluations per tile and member, mean, float32 []


def merge_members(index: int, members: torch.Tensor, evaluations: torch.Tensor, inference: Inference) -> Prediction:
    """Merge the probabilities [members, H, W] of one image by `inference.merge`.

    "mean" averages the probabilities. "vote" and "staple" merge the masks, cut at `inference.threshold`.
    """
    masks = members > inference.threshold
    if inference.merge != "mean":
        members = masks.float()
    mean = staple(members) if inference.merge == "staple" else members.mean(0)
    return Prediction(index, mean, members.std(0, correction=0), masks, evaluations)


def staple(masks: torch.Tensor) -> torch.Tensor:
    """Return the foreground probability [H, W] given masks [members, H, W] of 0 and 1 (STAPLE, Warfield et al., 2004)."""
    import SimpleITK

    if (masks == masks[:1]).all():  # STAPLE cannot estimate the members' performance if they all agree
        return masks[0]
    votes = [SimpleITK.GetImageFromArray(mask) for mask in masks.byte().cpu().numpy()]
    found = SimpleITK.STAPLE(votes, 1.0)  # type: ignore[no-untyped-call]  # SimpleITK has no types
    return torch.from_numpy(SimpleITK.GetArrayFromImage(found)).to(masks)


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
