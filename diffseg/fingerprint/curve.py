"""A data set's fingerprint: the error of the mask that is recovered without the image (E3), over the noise levels.

Its first derivative tells at which noise levels a mask is decided, and weighs or spreads the training (proposed by Öttl
et al., 2024). Of mmse(λ), the least mean squared error at log-SNR λ, and SNR = e^λ:

    mask-error     −d mmse/dλ = SNR E‖Cov(x0 | x_t)‖²_F / N, the derivative of the mask's squared error
    entropy-rate   SNR mmse = 2 dI(x0; x_t)/dλ: equal information in equal weight (Guo et al., 2005; Raya et al., 2026)
    dice           −d(1 − Dice)/dλ, of the mask cut at ½
    cross-entropy  −dCE/dλ (Dieleman et al., 2022)

All are of E3's errors in place of the least ones. numpy and scipy only, so that reports can use it, too.
"""

import math
from dataclasses import dataclass

import numpy as np

from diffseg.config import Config
from diffseg.errors import UserError

ERRORS = {  # which error over the noise levels each kind is made of
    "mask-error": "mask_error",
    "entropy-rate": "mask_error",
    "dice": "dice_error",
    "cross-entropy": "cross_entropy",
}
WIDTH = 0.5  # standard deviation of the smoothing, in log-SNR; see `_smooth`
GRID = 0.05  # of the smoothing, in log-SNR
LINEAR_END = -10.1  # log-SNR at the end of the linear β schedule of T = 1000
TINY = 1e-9  # a rise of the error that is rounding alone
FEW = 0.05  # share of the error's range below which nothing counts as lost; above 1 − FEW everything does


@dataclass(frozen=True)
class Fingerprint:
    """Arrays [N] over the noise levels, from clean to noisy."""

    kind: str  # one of ERRORS
    t: np.ndarray  # of the schedule that was measured
    log_snr: np.ndarray  # λ, falling
    error: np.ndarray  # as measured, in the unit of the ledger's `timesteps`
    error_smooth: np.ndarray  # monotone and smooth
    derivative: np.ndarray  # −d error_smooth/dλ, per unit of log-SNR, 0 or more
    weight: np.ndarray  # the profile as a share of its greatest value

    @property
    def derivative_t(self) -> np.ndarray:
        """d error_smooth/dt, in the schedule that was measured."""
        return np.gradient(self.error_smooth, self.t)

    @property
    def limit(self) -> float:
        """The error when everything is lost. At little SNR the error falls short of it in proportion to SNR = e^λ
        (mmse = Var − SNR ‖Cov‖²_F/N + …), hence by its own derivative."""
        return float(self.error_smooth[-1] + self.derivative[-1])

    @property
    def peak(self) -> float:
        """λ of the middle of the derivative's peak: its centre of mass where it is at least half of its greatest value.

        Many derivatives have a broad, flat top, on which the greatest value may lie anywhere.
        """
        levels = np.linspace(self.log_snr[-1], self.log_snr[0], 2000)
        derivative = np.interp(levels, self.log_snr[::-1], self.derivative[::-1])
        return _middle(levels, derivative, 0.5)

    @property
    def steepest_t(self) -> float:
        """t of the middle of the peak of d error/dt, in the schedule that was measured: its centre of mass within its half-power
        band."""
        t = np.linspace(self.t[0], self.t[-1], 2000)
        return _middle(t, np.interp(t, self.t, self.derivative_t), math.sqrt(0.5))

    def level(self, share: float) -> float:
        """λ at which such a share of the range from the cleanest level's error to the limit is lost.

        Beyond the last level it is extrapolated by the law of `limit`; above the first one it is that one's.
        """
        wanted = self.error_smooth[0] + share * (self.limit - self.error_smooth[0])
        if wanted > self.error_smooth[-1]:
            return float(self.log_snr[-1] + math.log((self.limit - wanted) / self.derivative[-1]))
        return float(np.interp(wanted, self.error_smooth, self.log_snr))

    def share(self, level: float) -> float:
        """The share of that range that is lost at a log-SNR, of those that were measured."""
        error = np.interp(level, self.log_snr[::-1], self.error_smooth[::-1])
        return float((error - self.error_smooth[0]) / (self.limit - self.error_smooth[0]))

    def summary(self) -> dict:
        """Log-SNRs at which nothing is lost yet (kept), half, and everything (lost), and where the derivative peaks; their t
        (NaN beyond the schedule); where the derivative by t peaks (steepest_t); whether the error has converged, that is,
        everything is lost at the schedule's end; and the share that is lost where the published linear schedule ends."""
        found = {name: self.level(share) for name, share in (("kept", FEW), ("half", 0.5), ("lost", 1 - FEW))}
        found["peak"] = self.peak
        times = {f"{name}_t": self._time(level) for name, level in found.items()}
        end = float(self.log_snr[-1])
        ends = {"end": end, "converged": found["lost"] >= end, "limit": self.limit, "linear": self.share(LINEAR_END)}
        return {"kind": self.kind, **found, **times, "steepest_t": self.steepest_t, **ends}

    def words(self) -> list[str]:
        """The summary in sentences. Raises UserError if the error does not rise with the noise."""
        self.knots()
        found = self.summary()
        at = lambda name: f"log-SNR {found[name]:.1f} (t = {found[name + '_t']:.2f})"  # noqa: E731
        lines = [
            f"Nothing is lost yet down to {at('kept')}: there the mask shows through the noise.",
            f"Half is lost at {at('half')}; the error rises fastest around {at('peak')}, and by t around "
            f"t = {found['steepest_t']:.2f}.",
        ]
        if not found["converged"]:
            return [
                *lines,
                f"The error has not converged at the schedule's end, log-SNR {found['end']:.1f}: a final log-SNR of "
                f"{found['lost']:.1f} would do, by extrapolation; a lower diffusion.log_snr_min or input_scale measures it.",
            ]
        lines.append(f"Everything is lost from {at('lost')} on: the error has converged at the schedule's end.")
        if found["end"] < LINEAR_END - 0.5:
            enough = "has" if found["lost"] >= LINEAR_END else "has not"
            lines.append(
                f"At log-SNR {LINEAR_END}, where the published linear schedule ends, {found['linear']:.0%} is lost: there it "
                f"{enough} converged."
            )
        return lines

    def _time(self, level: float) -> float:
        """t of a log-SNR in the schedule that was measured, NaN beyond its end."""
        rising = self.log_snr[::-1]
        return math.nan if level < rising[0] else float(np.interp(level, rising, self.t[::-1]))

    def knots(self) -> tuple[tuple[float, float], ...]:
        """The profile as knots (λ, weight), rising in λ. One unit of log-SNR beyond what was measured it is 0.

        Raises UserError if the error does not rise with the noise.
        """
        if not self.weight.any():
            raise UserError(
                f"the fingerprint {self.kind} is 0 at all {len(self.t)} noise levels, so E3 has learnt nothing that the noise "
                "takes away: train it longer (diffusion.fingerprint_steps), or take another diffusion.fingerprint"
            )
        inner = zip(self.log_snr[::-1].tolist(), self.weight[::-1].tolist(), strict=True)
        return ((float(self.log_snr[-1]) - 1, 0.0), *inner, (float(self.log_snr[0]) + 1, 0.0))


def compute_fingerprint(trials: list[list[dict]], kind: str) -> Fingerprint:
    """The fingerprint of E3 trials, of each its rows over the noise levels; of several, of the mean of their errors.

    Rows hold t, log_snr and the errors, as in the ledger's `timesteps`; of several training steps the last one's count.
    """
    levels = [_last(trial) for trial in trials]
    t, log_snr = (np.array([row[name] for row in levels[0]]) for name in ("t", "log_snr"))
    error = np.mean([[row[ERRORS[kind]] for row in trial] for trial in levels], axis=0)
    grid, monotone = _monotone(log_snr, error)
    smooth = _smooth(monotone, grid)
    derivative = np.abs(np.gradient(smooth, grid))  # falling in λ, but for rounding
    # What is not recovered from the cleanest masks, the network cannot do: noise has no part in it.
    rate = derivative
    if kind == "entropy-rate":
        rate = _smooth(np.exp(grid) * (monotone - monotone[-1]), grid).clip(min=0)
    smooth, derivative, rate = (np.interp(log_snr, grid, values) for values in (smooth, derivative, rate))
    weight = rate / rate.max() if rate.max() > TINY else np.zeros_like(rate)
    return Fingerprint(kind, t, log_snr, error, smooth, derivative, weight)


def fingerprint_rows(timesteps: list[dict], data_digest: str, config: Config) -> list[dict]:
    """An E3 trial's fingerprints of every kind, as rows of the ledger's table."""
    of = {
        "dataset": config.data.name,
        "digest": data_digest,
        "size": config.data.size,
        "coding": config.diffusion.coding,
    }
    columns = ("t", "log_snr", "error", "error_smooth", "derivative", "derivative_t", "weight")
    found = []
    for kind in ERRORS:
        one = compute_fingerprint([timesteps], kind)
        values = zip(*(getattr(one, column).tolist() for column in columns), strict=True)
        found += [of | {"kind": kind} | dict(zip(columns, row, strict=True)) for row in values]
    return found


def _middle(places: np.ndarray, values: np.ndarray, share: float) -> float:
    """The centre of mass of the values where they are at least such a share of the greatest; of the places if all are 0."""
    mass = np.where(values >= share * values.max(), values, 0.0)
    return float(mass @ places / mass.sum()) if mass.any() else float(places.mean())


def _last(rows: list[dict]) -> list[dict]:
    step = max(row["step"] for row in rows)
    return sorted((row for row in rows if row["step"] == step), key=lambda row: row["t"])


def _monotone(log_snr: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(λ rising in steps of about GRID, the isotonic regression of the error there, joined by straight lines)."""
    from scipy.optimize import isotonic_regression

    levels, monotone = log_snr[::-1], isotonic_regression(error).x[::-1]
    grid = np.linspace(levels[0], levels[-1], 2 + round((levels[-1] - levels[0]) / GRID))
    return grid, np.interp(grid, levels, monotone)


def _smooth(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """After a Gaussian of standard deviation WIDTH in λ, which keeps what is monotone monotone.

    N pixels that hang together are decided as a single one is, at a log-SNR lower by ln N, so every derivative is a mixture
    of the single pixel's, shifted. That has a standard deviation of about 1.4, which a width of ½ widens by 6 % at most.
    """
    spacing = grid[1] - grid[0]
    reach = math.ceil(4 * WIDTH / spacing)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * spacing / WIDTH) ** 2)
    padded = np.pad(
        values - values[0], reach, mode="reflect", reflect_type="odd"
    )  # turned round the ends: the slope goes on there
    return values[0] + np.convolve(padded, kernel / kernel.sum(), mode="valid")
