"""Members merged into one map: mean, votes or STAPLE; and several networks pooled."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Prediction:
    """The ensemble's answer for one image."""

    index: int  # of the image in its split
    mean: torch.Tensor  # merged foreground probability, float32 [H, W]
    sd: torch.Tensor  # standard deviation of the members' maps, float32 [H, W], 0 to 0.5
    masks: torch.Tensor  # the members' maps cut at the threshold, bool [members, H, W]
    evaluations: torch.Tensor  # of the network, a tile of a member, mean, float32 []


def staple(masks: torch.Tensor) -> torch.Tensor:
    """Probability [H, W] of the foreground given masks [members, H, W] of 0 and 1 (STAPLE, Warfield et al., 2004)."""
    import SimpleITK

    if (masks == masks[:1]).all():  # nothing to weigh, and no spread to estimate
        return masks[0]
    votes = [SimpleITK.GetImageFromArray(mask) for mask in masks.byte().cpu().numpy()]
    return torch.from_numpy(SimpleITK.GetArrayFromImage(SimpleITK.STAPLE(votes, 1.0))).to(masks)


def pooled(parts: list[Prediction]) -> Prediction:
    """One prediction of several networks that count alike: the mean, and the deviation of all their members."""
    means, deviations, evaluations = (
        torch.stack([getattr(part, name) for part in parts]) for name in ("mean", "sd", "evaluations")
    )
    spread = (deviations.square().mean(0) + means.var(0, correction=0)).sqrt()
    masks = torch.cat([part.masks for part in parts])
    return Prediction(parts[0].index, means.mean(0), spread, masks, evaluations.mean())
