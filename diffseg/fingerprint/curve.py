"""A data set's fingerprint: the error of masks that E3 recovers without the image, as a function of the noise level.

The derivative of that error shows at which noise levels a mask is decided. It weights or spreads the training over the noise
levels (proposed by Öttl et al., 2024). With mmse(λ), the least mean squared error at log-SNR λ, and SNR = e^λ:

    mask-error     −d mmse/dλ = SNR E‖Cov(x0 | x_t)‖²_F / N, the derivative of the mask's squared error
    entropy-rate   SNR mmse = 2 dI(x0; x_t)/dλ: equal information in equal weight (Guo et al., 2005; Raya et al., 2026)
    dice           −d(1 − Dice)/dλ, of the mask cut at ½
    cross-entropy  −dCE/dλ (Dieleman et al., 2022)

E3's errors stand in for the least ones. The module needs numpy and scipy only, so that reports can use it.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffseg.errors import UserError
from diffseg.rows import Row

ERRORS = {  # by kind of fingerprint: the column of the ledger's `timesteps` that it is computed from
    "mask-error": "mask_error",
    "entropy-rate": "mask_error",
    "dice": "dice_error",
    "cross-entropy": "cross_entropy",
}
WIDTH = 0.5  # standard deviation of the smoothing, in log-SNR; see `_smooth`
GRID = 0.05  # step of the smoothing, in log-SNR
LINEAR_END = -10.1  # log-SNR at the end of the linear β schedule of T = 1000
TINY = 1e-9  # a derivative at or below this is rounding alone
FEW = 0.05  # share of the error's range below which nothing counts as lost; above 1 − FEW, everything does


@dataclass(frozen=True)
class Fingerprint:
    """The error over the noise levels and its derivative: arrays [N], from clean to noisy."""

    kind: str  # one of ERRORS
    t: np.ndarray  # of the schedule that was measured
    log_snr: np.ndarray  # λ, falling
    error: np.ndarray  # as measured, in the unit of the ledger's `timesteps`
    error_smooth: np.ndarray  # monotone and smooth
    derivative: np.ndarray  # −d error_smooth/dλ, per unit of log-SNR, at least 0
    weight: np.ndarray  # the profile of the kind, divided by its greatest value

    @property
    def derivative_t(self) -> np.ndarray:
        """The derivative of error_smooth by t, in the schedule that was measured."""
        derivative: np.ndarray = np.gradient(self.error_smooth, self.t)
        return derivative

    @property
    def limit(self) -> float:
        """The error if the mask is lost in the noise.

        At low SNR the error falls short of it in proportion to SNR = e^λ (mmse = Var − SNR ‖Cov‖²_F/N + …), hence by the
        error's own derivative.
        """
        return float(self.error_smooth[-1] + self.derivative[-1])

    @property
    def peak(self) -> float:
        """λ of the derivative's peak: the centre of mass of the region above half of its greatest value.

        Many derivatives have a broad, flat top, on which the greatest value may lie anywhere.
        """
        levels = np.linspace(self.log_snr[-1], self.log_snr[0], 2000)
        derivative = np.interp(levels, self.log_snr[::-1], self.derivative[::-1])
        return _middle(levels, derivative, 0.5)

    @property
    def steepest_t(self) -> float:
        """The t of the peak of `derivative_t`: the centre of mass of its half-power band."""
        t = np.linspace(self.t[0], self.t[-1], 2000)
        return _middle(t, np.interp(t, self.t, self.derivative_t), math.sqrt(0.5))

    def find_level(self, share: float) -> float:
        """Return λ at which a share of the range from the cleanest level's error to the limit is lost.

        Beyond the noisiest level, λ is extrapolated by the law of `limit`. It is the cleanest level's at most.
        """
        wanted = self.error_smooth[0] + share * (self.limit - self.error_smooth[0])
        if wanted > self.error_smooth[-1]:
            return float(self.log_snr[-1] + math.log((self.limit - wanted) / self.derivative[-1]))
        return float(np.interp(wanted, self.error_smooth, self.log_snr))

    def lost_share(self, level: float) -> float:
        """Return the share of the range of `find_level` that is lost at a log-SNR within the measured ones.

        It is NaN if the error is the same at all levels.
        """
        error, span = np.interp(level, self.log_snr[::-1], self.error_smooth[::-1]), self.limit - self.error_smooth[0]
        return float((error - self.error_smooth[0]) / span) if span else math.nan

    def summary(self) -> dict[str, Any]:
        """Return the fingerprint's landmarks.

        - kept, half, lost: the log-SNRs at which nothing, half and everything is lost; peak: that of the derivative's peak;
        - kept_t, half_t, lost_t, peak_t: their t, NaN beyond the schedule; steepest_t: t of the peak of the derivative by t;
        - end: the log-SNR at the schedule's end; converged: whether everything is lost there; limit: the error then;
        - linear: the share that is lost where the published linear schedule ends.
        """
        found = {name: self.find_level(share) for name, share in (("kept", FEW), ("half", 0.5), ("lost", 1 - FEW))}
        found["peak"] = self.peak
        times = {f"{name}_t": self._find_time(level) for name, level in found.items()}
        end = float(self.log_snr[-1])
        ends = {
            "end": end,
            "converged": found["lost"] >= end,
            "limit": self.limit,
            "linear": self.lost_share(LINEAR_END),
        }
        return {"kind": self.kind, **found, **times, "steepest_t": self.steepest_t, **ends}

    def describe(self) -> list[str]:
        """Return the summary in sentences. Raises UserError if the error does not rise with the noise."""
        self.knots()
        found = self.summary()

        def at(name: str) -> str:
            return f"log-SNR {found[name]:.1f} (t = {found[name + '_t']:.2f})"

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

    def _find_time(self, level: float) -> float:
        """Return t of a log-SNR in the schedule that was measured, NaN beyond its end."""
        rising = self.log_snr[::-1]
        return math.nan if level < rising[0] else float(np.interp(level, rising, self.t[::-1]))

    def knots(self) -> tuple[tuple[float, float], ...]:
        """Return the profile as knots (λ, weight), rising in λ. It falls to 0 within one unit of log-SNR beyond the measured ones.

        Raises UserError if the error does not rise with the noise.
        """
        if not self.weight.any():
            raise UserError(
                f"the fingerprint {self.kind} is 0 at all {len(self.t)} noise levels, so E3 has learnt nothing that the noise "
                "takes away: train it longer (diffusion.fingerprint_steps), or take another diffusion.fingerprint"
            )
        inner = zip(self.log_snr[::-1].tolist(), self.weight[::-1].tolist(), strict=True)
        return ((float(self.log_snr[-1]) - 1, 0.0), *inner, (float(self.log_snr[0]) + 1, 0.0))


def compute_fingerprint(trials: list[list[Row]], kind: str, of_class: str = "all") -> Fingerprint:
    """Compute a fingerprint from the mean error of trials of E3.

    Args:
        trials: of each trial the rows of the ledger's `timesteps`: t, log_snr and the errors. Of several training steps the
            last one counts.
        kind: one of ERRORS.
        of_class: the class whose error is taken; "all" for the mean over the classes.

    Raises UserError if the trials did not measure that class.
    """
    levels = [_select_last_step(_select_class(trial, of_class)) for trial in trials]
    t, log_snr = (np.array([row[name] for row in levels[0]]) for name in ("t", "log_snr"))
    error = np.mean([[row[ERRORS[kind]] for row in trial] for trial in levels], axis=0)
    grid, monotone = _monotone(log_snr, error)
    smooth = _smooth(monotone, grid)
    derivative = np.abs(np.gradient(smooth, grid))  # the error falls in λ, but for rounding
    # The error at the cleanest level is a limit of the network, not an effect of the noise.
    rate = derivative
    if kind == "entropy-rate":
        rate = _smooth(np.exp(grid) * (monotone - monotone[-1]), grid).clip(min=0)
    smooth, derivative, rate = (np.interp(log_snr, grid, values) for values in (smooth, derivative, rate))
    weight = rate / rate.max() if rate.max() > TINY else np.zeros_like(rate)
    return Fingerprint(kind, t, log_snr, error, smooth, derivative, weight)


def _middle(places: np.ndarray, values: np.ndarray, share: float) -> float:
    """Return the centre of mass of the values that are at least a share of the greatest; that of the places if all are 0."""
    mass = np.where(values >= share * values.max(), values, 0.0)
    return float(mass @ places / mass.sum()) if mass.any() else float(places.mean())


def _select_class(rows: list[Row], of_class: str) -> list[Row]:
    """Return the rows of a class. Raises UserError if there are none."""
    found = [row for row in rows if (row.get("class") or "all") == of_class]
    if not found:
        names = ", ".join(dict.fromkeys(str(row.get("class") or "all") for row in rows)) or "none"
        raise UserError(
            f"the fingerprint of the class {of_class} was not measured: the trials of E3 measured {names}; take one of "
            "these as diffusion.fingerprint_class, or measure anew under another name"
        )
    return found


def _select_last_step(rows: list[Row]) -> list[Row]:
    """Return the rows of the last training step, rising in t."""
    step = max(row["step"] for row in rows)
    return sorted((row for row in rows if row["step"] == step), key=lambda row: row["t"])


def _monotone(log_snr: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return λ rising in steps of about GRID, and there the isotonic regression of the error, joined by straight lines."""
    from scipy.optimize import isotonic_regression

    levels, monotone = log_snr[::-1], isotonic_regression(error).x[::-1]
    grid = np.linspace(levels[0], levels[-1], 2 + round((levels[-1] - levels[0]) / GRID))
    return grid, np.interp(grid, levels, monotone)


def _smooth(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Smooth by a Gaussian of standard deviation WIDTH in λ, which keeps monotone values monotone.

    N connected pixels are decided as a single pixel is, at a log-SNR lower by ln N. So every derivative is a mixture of the
    shifted derivative of a single pixel, whose standard deviation of about 1.4 is widened by 6 % at most.
    """
    spacing = grid[1] - grid[0]
    reach = math.ceil(4 * WIDTH / spacing)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * spacing / WIDTH) ** 2)
    padded = np.pad(values - values[0], reach, mode="reflect", reflect_type="odd")  # keeps the slope beyond the ends
    smooth: np.ndarray = values[0] + np.convolve(padded, kernel / kernel.sum(), mode="valid")
    return smooth
