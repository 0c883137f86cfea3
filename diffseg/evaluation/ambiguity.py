"""Agreement of sampled masks with several raters' masks of an image: GED, HM-IoU, NCC, CI, on the device of the masks.

Arguments: samples, bool or 0/1 [..., n, H, W], the ensemble's masks; raters, bool or 0/1 [..., m, H, W], the raters' masks.
Images come first in all tensors. Distances are 1 − IoU of the foreground, where empty against empty has an IoU of 1.
"""

import math

import torch

from diffseg.evaluation.metrics import mean_over_pixels

EXACT = 2**24  # float32 counts exactly up to here
ROUNDING = 1e-12  # relative difference of values that rounding alone makes

Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def iou_matrix(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the IoU of every mask of a [..., n, H, W] with every mask of b [..., m, H, W]: float64 [..., n, m]."""
    a, b = _flatten(a), _flatten(b)
    return _ious((a @ b.mT).double(), a.sum(-1).double(), b.sum(-1).double())


def count_shared(masks: torch.Tensor) -> torch.Tensor:
    """Return the number of pixels that every two masks of [..., m, H, W] share: float64 [..., m, m]."""
    flat = _flatten(masks)
    return (flat @ flat.mT).double()


def pair_ious(shared: torch.Tensor) -> torch.Tensor:
    """Return the IoU of every two masks, float64 [..., m, m], given the pixels that they share."""
    areas = shared.diagonal(dim1=-2, dim2=-1)
    return _ious(shared, areas, areas)


def split_pairs(pairs: torch.Tensor, samples: int) -> Three:
    """Split values of pairs [..., n + m, n + m]: of samples with raters [..., n, m], samples [..., n, n], raters [..., m, m]."""
    return pairs[..., :samples, samples:], pairs[..., :samples, :samples], pairs[..., samples:, samples:]


def distances(samples: torch.Tensor, raters: torch.Tensor) -> Three:
    """Return 1 − IoU between samples and raters [..., n, m], among samples [..., n, n], and among raters [..., m, m]."""
    shared = count_shared(torch.cat([samples, raters], -3))
    return split_pairs(1 - pair_ious(shared), samples.shape[-3])


def ged(samples: torch.Tensor, raters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two estimates [...] of the generalised energy distance 2 E d(S, Y) − E d(S, S′) − E d(Y, Y′).

    Source: Kohl et al. (2018), Eq. 3. The first estimate is the V-statistic of the literature, whose E d(S, S′) counts a
    sample against itself: a perfect model then scores E d(Y, Y′)/n, so that values of different n cannot be compared. The
    second has no such bias (the U-statistic in the samples; NaN for a single one). Both take the raters as the whole truth.
    """
    return energy_distance(*distances(samples, raters))


def energy_distance(cross: torch.Tensor, among: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the two estimates of `ged` from the `distances`."""
    rest = 2 * cross.mean((-2, -1)) - truth.mean((-2, -1))
    n = among.shape[-1]
    unbiased = rest - among.sum((-2, -1)) / (n * (n - 1)) if n > 1 else torch.full_like(rest, math.nan)
    return rest - among.mean((-2, -1)), unbiased


def energy_distance_of_fewer(cross: torch.Tensor, among: torch.Tensor, truth: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return both estimates of the first 2, 4, 8, … samples, fewer than all, which shows what more samples bring."""
    found: dict[str, torch.Tensor] = {}
    count = 2
    while count < among.shape[-1]:
        biased, unbiased = energy_distance(cross[..., :count, :], among[..., :count, :count], truth)
        found |= {f"ged_{count}": biased, f"ged_unbiased_{count}": unbiased}
        count *= 2
    return found


def hungarian_matched_iou(ious: torch.Tensor) -> torch.Tensor:
    """Return HM-IoU [...]: the mean IoU of the best one-to-one matching of samples and raters (Zbinden et al., 2023).

    ious: of every sample with every rater, [..., n, m].

    Both are first repeated to the least common multiple of their numbers, so that every mask counts alike. The result is on
    the host, where scipy matches one image after the other.
    """
    from scipy.optimize import linear_sum_assignment

    n, m = ious.shape[-2:]
    count = math.lcm(n, m)
    found = []
    for own in ious.reshape(-1, n, m).cpu().numpy():
        iou = own.repeat(count // n, 0).repeat(count // m, 1)
        found.append(float(iou[linear_sum_assignment(iou, maximize=True)].mean()))
    return torch.tensor(found, dtype=torch.float64).reshape(ious.shape[:-2])


def ncc(
    samples: torch.Tensor, raters: torch.Tensor, valid: torch.Tensor | None = None, epsilon: float = 1e-8
) -> torch.Tensor:
    """Return the normalised cross-correlation [...] of uncertainty and error (S_NCC), mean over raters.

    Source: Baumgartner et al. (2019). Correlates, over the pixels that count, the cross-entropy of the samples with their
    mean and that with a rater's mask. NaN where either map is constant, since a correlation is then not defined.

    valid: bool [..., H, W]; None if all pixels count.
    """
    share = samples.double().mean(-3, keepdim=True)  # of the samples that mark a pixel [..., 1, H, W]
    one, zero = (math.log(x + epsilon) for x in (1.0, 0.0))
    log_p, log_q = share * one + (1 - share) * zero, share * zero + (1 - share) * one
    uncertainty = -(share * log_p + (1 - share) * log_q)
    errors = -torch.where(raters.bool(), log_p, log_q)
    return _correlate(uncertainty, errors, None if valid is None else valid.unsqueeze(-3)).mean(-1)


def _correlate(a: torch.Tensor, b: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """Return Pearson's correlation [...] of maps [..., H, W] that broadcast; NaN where one of them is constant."""
    a, b = (each - mean_over_pixels(each, valid)[..., None, None] for each in (a, b))
    scale = (mean_over_pixels(a.square(), valid) * mean_over_pixels(b.square(), valid)).sqrt()
    return mean_over_pixels(a * b, valid) / torch.where(scale > ROUNDING, scale, torch.nan)


def best_dice(ious: torch.Tensor) -> torch.Tensor:
    """Return the mean over the raters [...] of the best Dice of any sample, given their IoUs [..., n, m]."""
    return (2 * ious / (1 + ious)).amax(-2).mean(-1)


def maximum_dice(samples: torch.Tensor, raters: torch.Tensor) -> torch.Tensor:
    """Return D_max [...]: the mean over the raters of the best Dice of any sample (Rahman et al., 2023)."""
    return best_dice(iou_matrix(samples, raters))


def collective_insight(samples: torch.Tensor, raters: torch.Tensor) -> torch.Tensor:
    """Return CI = 3 S_c D_max D_a / (S_c + D_max + D_a) [...] (Rahman et al., 2023).

    S_c is the share of the raters' union that the samples' union contains, 1 if the former is empty. D_a is 1 minus half the
    differences of the greatest and the least variance among the samples and among the raters.
    """
    pixels = math.prod(samples.shape[-2:])
    return combine_insight(samples, raters, count_shared(torch.cat([samples, raters], -3)), pixels)


def combine_insight(
    samples: torch.Tensor, raters: torch.Tensor, shared: torch.Tensor, pixels: torch.Tensor | int
) -> torch.Tensor:
    """Return `collective_insight`, given what samples and raters share (`count_shared`), and the pixels that count [...]."""
    found, marked = samples.any(-3), raters.any(-3)
    union = marked.sum((-2, -1)).double()
    sensitivity = torch.where(union > 0, (found & marked).sum((-2, -1)) / union, 1.0)
    _, among, truth = split_pairs(shared, samples.shape[-3])
    ious = split_pairs(pair_ious(shared), samples.shape[-3])[0]
    (low, high), (true_low, true_high) = _extreme_variances(among, pixels), _extreme_variances(truth, pixels)
    agreement = 1 - ((high - true_high).abs() + (low - true_low).abs()) / 2
    best = best_dice(ious)
    return 3 * sensitivity * best * agreement / (sensitivity + best + agreement)


def _extreme_variances(shared: torch.Tensor, pixels: torch.Tensor | int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the least and the greatest variance [...] over the pixels of the difference of two masks, or of one with itself.

    shared: the pixels that every two masks share, [..., m, m].
    """
    areas = shared.diagonal(dim1=-2, dim2=-1)
    count = pixels[..., None, None] if isinstance(pixels, torch.Tensor) else pixels
    squares = areas[..., :, None] + areas[..., None, :] - 2 * shared
    variances = squares / count - ((areas[..., :, None] - areas[..., None, :]) / count).square()
    return variances.amin((-2, -1)), variances.amax((-2, -1))


def _flatten(masks: torch.Tensor) -> torch.Tensor:
    """Return masks [..., n, H, W] as numbers [..., n, pixels], float32 where sums of them are exact, else float64."""
    flat = masks.flatten(-2)
    return flat.to(torch.float32 if flat.shape[-1] < EXACT else torch.float64)


def _ious(shared: torch.Tensor, areas: torch.Tensor, other_areas: torch.Tensor) -> torch.Tensor:
    """Return IoUs [..., n, m], given the shared pixels [..., n, m] and the masks' areas [..., n] and [..., m]."""
    either = areas[..., :, None] + other_areas[..., None, :] - shared
    return torch.where(either > 0, shared / either.clamp(min=1), 1.0)
