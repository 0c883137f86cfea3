"""A space that is a Python function in a file of the user's: `space = "my_space.py:name"`.

    def name(trial):
        if trial.suggest_categorical("diffusion.ends", ["limited", "zero-terminal"]) == "zero-terminal":
            trial.suggest_float("diffusion.log_snr_min", -20.0, -8.0)

The file is run by itself: it may import installed packages, but not files beside it, so that its digest tells whether the
space has changed.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffseg.config import Config
from diffseg.config.sentences import shown
from diffseg.errors import ConfigError
from diffseg.suggestions import did_you_mean, did_you_mean_path
from search_spaces.errors import SpaceError
from search_spaces.settings import SPACE, check_setting
from search_spaces.trial import Trial, draw_settings

REFERENCE = re.compile(r"(?P<file>.+\.py):(?P<function>\w*)")
SAMPLES = 100  # draws by which a function is checked
Function = Callable[[Trial], object]


@dataclass(frozen=True)
class FunctionSpace:
    """A function that asks a trial for the settings of a proposal."""

    file: str  # absolute path
    function: str
    digest: str  # of the file

    @property
    def name(self) -> str:
        """The file's name and the function's."""
        return f"{Path(self.file).name}:{self.function}"

    def suggest(self, trial: Trial, start: Mapping[str, Any]) -> None:
        """Ask a trial for the settings of a proposal. Raises SpaceError if the function raises."""
        _call(self.name, self._load(), trial)

    @property
    def fixed(self) -> dict[str, Any]:
        """The settings that have one value in all proposals: none that is known."""
        return {}

    @property
    def paths(self) -> set[str]:
        """The settings that SAMPLES random proposals have."""
        return {path for settings in self._draw_samples() for path in settings}

    def can_draw(self, path: str, value: Any) -> bool:
        """Return whether one of SAMPLES random proposals has a value of a setting."""
        return any(path in settings and settings[path] == value for settings in self._draw_samples())

    def check(self, start: Config) -> None:
        """Raise SpaceError unless random proposals name settings with values that are allowed in themselves."""
        checked: set[tuple[str, str]] = set()
        for settings in self._draw_samples():
            for path, value in settings.items():
                if (path, text := shown(value)) not in checked:
                    checked.add((path, text))
                    self._check_value(start, path, value)

    def _check_value(self, start: Config, path: str, value: Any) -> None:
        check_setting(path, SPACE)
        try:
            start.with_leaves({path: value})
        except ConfigError as error:
            if str(error).startswith((f"{path}: got", f"{path}.")) or "unknown configuration key" in str(error):
                raise SpaceError(SPACE, f"{self.name} suggests what is refused ({error})") from None

    def _draw_samples(self) -> list[dict[str, Any]]:
        function = self._load()
        return [draw_settings(lambda trial: _call(self.name, function, trial), seed) for seed in range(SAMPLES)]

    def _load(self) -> Function:
        return load_unchanged(self.file, self.function, self.digest)

    def written(self) -> Any:
        """Return the space as a study's definition has it."""
        return {"file": self.file, "function": self.function, "digest": self.digest}

    def describe(self) -> dict[str, str]:
        """Return the name of the space and the digest of its file."""
        return {self.name: f"file {self.digest}"}


def read_function(reference: str) -> FunctionSpace:
    """Return the space of `FILE.py:FUNCTION`. Raises SpaceError if it cannot be loaded."""
    found = REFERENCE.fullmatch(reference)
    assert found is not None
    file, function = Path(found["file"]).absolute(), found["function"]
    source = _read(file)
    load_unchanged(str(file), function, _digest(source))
    return FunctionSpace(str(file), function, _digest(source))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise SpaceError(SPACE, f"there is no file {file}{did_you_mean_path(file)}; give FILE.py:FUNCTION") from None
    except (OSError, ValueError) as error:
        raise SpaceError(SPACE, f"{file} cannot be read ({error}); give FILE.py:FUNCTION") from None


def _digest(source: bytes) -> str:
    return hashlib.sha256(source).hexdigest()[:12]


@lru_cache
def load_unchanged(file: str, function: str, digest: str) -> Function:
    """Return a function of a file, which is read once. Raises SpaceError if the file has another digest."""
    source = _read(Path(file))
    if _digest(source) != digest:
        raise SpaceError(
            SPACE, f"{file} has changed since the search began; restore it, or start another search with --name NAME"
        )
    return _load_function(file, function, source)


def _load_function(file: str, function: str, source: bytes) -> Function:
    """Run a file by itself and return one of its functions. `sys.path` and `sys.modules` stay as they are."""
    names: dict[str, Any] = {"__name__": Path(file).stem, "__file__": file}
    try:
        exec(compile(source, file, "exec"), names)
    except (Exception, SystemExit) as error:
        raise SpaceError(SPACE, f"{file} cannot be run ({_describe(error)}); mend it") from None
    own = [
        name
        for name, value in names.items()
        if callable(value) and getattr(value, "__module__", None) == names["__name__"]
    ]
    if not callable(names.get(function)):
        hint = did_you_mean(function, own)
        raise SpaceError(SPACE, f"{file} has no function '{function}'{hint}; it has {', '.join(own) or 'none'}")
    found: Function = names[function]
    return found


def _call(name: str, function: Function, trial: Trial) -> None:
    """Ask a trial through the user's function. Raises SpaceError if the function raises."""
    try:
        function(trial)
    except (Exception, SystemExit) as error:
        raise SpaceError(SPACE, f"{name} raises {_describe(error)}; mend the function") from None


def _describe(error: BaseException) -> str:
    """Return an error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".rstrip(": ")
