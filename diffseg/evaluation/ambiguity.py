"""Agreement of sampled masks with several raters' masks of one image: GED, HM-IoU, NCC, CI, on the device of the masks.

Arguments: samples, bool or 0/1 [n, H, W], the ensemble's masks; raters, bool or 0/1 [m, H, W], the raters' masks. Distances
are 1 − IoU of the foreground, where empty against empty has an IoU of 1.
"""

import math

import torch


def iou_matrix(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the IoU of every mask of a [n, H, W] with every mask of b [m, H, W]: float64 [n, m]."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    both = a @ b.T
    either = a.sum(1)[:, None] + b.sum(1)[None] - both
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def distances(samples: torch.Tensor, raters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return 1 − IoU between samples and raters [n, m], among samples [n, n], and among raters [m, m]."""
    return 1 - iou_matrix(samples, raters), 1 - iou_matrix(samples, samples), 1 - iou_matrix(raters, raters)


def ged(samples: torch.Tensor, raters: torch.Tensor) -> tuple[float, float]:
    """Return two estimates of the generalised energy distance 2 E d(S, Y) − E d(S, S′) − E d(Y, Y′).

    Source: Kohl et al. (2018), Eq. 3. The first estimate is the V-statistic of the literature, whose E d(S, S′) counts a
    sample against itself: a perfect model then scores E d(Y, Y′)/n, so that values of different n cannot be compared. The
    second has no such bias (the U-statistic in the samples; NaN for a single one). Both take the raters as the whole truth.
    """
    return energy_distance(*distances(samples, raters))


def energy_distance(cross: torch.Tensor, among: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    """Return the two estimates of `ged` from the `distances`."""
    rest = float(2 * cross.mean() - truth.mean())
    n = len(among)
    unbiased = rest - float(among.sum()) / (n * (n - 1)) if n > 1 else math.nan
    return rest - float(among.mean()), unbiased


def energy_distance_of_fewer(cross: torch.Tensor, among: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """Return both estimates of the first 2, 4, 8, … samples, fewer than all, which shows what more samples bring."""
    found: dict[str, float] = {}
    count = 2
    while count < len(among):
        biased, unbiased = energy_distance(cross[:count], among[:count, :count], truth)
        found |= {f"ged_{count}": biased, f"ged_unbiased_{count}": unbiased}
        count *= 2
    return found


def hungarian_matched_iou(ious: torch.Tensor) -> float:
    """Return HM-IoU: the mean IoU of the best one-to-one matching of samples and raters (Zbinden et al., 2023).

    ious: of every sample with every rater, [n, m].

    Both are first repeated to the least common multiple of their numbers, so that every mask counts alike.
    """
    from scipy.optimize import linear_sum_assignment

    iou = ious.cpu().numpy()
    count = math.lcm(*iou.shape)
    iou = iou.repeat(count // iou.shape[0], 0).repeat(count // iou.shape[1], 1)
    return float(iou[linear_sum_assignment(iou, maximize=True)].mean())


def ncc(samples: torch.Tensor, raters: torch.Tensor, epsilon: float = 1e-8) -> float:
    """Return the normalised cross-correlation of uncertainty and error (Baumgartner et al., 2019, S_NCC), mean over raters.

    Correlates, over the pixels, the cross-entropy of the samples with their mean and that with a rater's mask. NaN where
    either map is constant, since a correlation is then not defined.
    """
    log_p, log_q = (torch.log(x + epsilon) for x in (samples.flatten(1).double(), 1 - samples.flatten(1).double()))

    def cross_entropy(truth: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy of each pixel [..., pixels], mean over the samples."""
        return -(truth * log_p.mean(0) + (1 - truth) * log_q.mean(0))

    uncertainty = cross_entropy(samples.flatten(1).double().mean(0))
    errors = cross_entropy(raters.flatten(1).double())
    return float(torch.stack([_correlation(uncertainty, error) for error in errors]).mean())


def _correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return Pearson's correlation of two vectors."""
    a, b = a - a.mean(), b - b.mean()
    return (a * b).mean() / (a.square().mean() * b.square().mean()).sqrt()


def maximum_dice(samples: torch.Tensor, raters: torch.Tensor) -> float:
    """Return D_max: the mean over the raters of the best Dice of any sample (Rahman et al., 2023)."""
    iou = iou_matrix(samples, raters)
    return float((2 * iou / (1 + iou)).amax(0).mean())


def collective_insight(samples: torch.Tensor, raters: torch.Tensor) -> float:
    """Return CI = 3 S_c D_max D_a / (S_c + D_max + D_a), given masks [n, ...] and [m, ...] (Rahman et al., 2023).

    S_c is the share of the raters' union that the samples' union contains, 1 if the former is empty. D_a is 1 minus half the
    differences of the greatest and the least variance among the samples and among the raters.
    """
    found, marked = samples.any(0), raters.any(0)
    sensitivity = float((found & marked).sum() / marked.sum()) if marked.any() else 1.0
    (low, high), (true_low, true_high) = _extreme_variances(samples), _extreme_variances(raters)
    agreement = 1 - (abs(high - true_high) + abs(low - true_low)) / 2
    parts = sensitivity, maximum_dice(samples, raters), agreement
    return 3 * math.prod(parts) / sum(parts)


def _extreme_variances(masks: torch.Tensor) -> tuple[float, float]:
    """Return the least and the greatest variance over the pixels of the difference of two masks, or of one with itself."""
    flat = masks.flatten(1).double()
    areas, pixels = flat.sum(1), flat.shape[1]
    squares = areas[:, None] + areas[None] - 2 * flat @ flat.T
    variances = squares / pixels - ((areas[:, None] - areas[None]) / pixels).square()
    return float(variances.min()), float(variances.max())
