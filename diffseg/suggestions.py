"""Names that a mistyped one may stand for: studies, trials, metrics, data sets, settings and files."""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path

CUTOFF = 0.65  # similarity from which a name is suggested, of 0 to 1
MOST = 3  # names that are suggested


def find_nearest(name: str, known: Iterable[str], count: int = MOST, cutoff: float = CUTOFF) -> list[str]:
    """Return up to `count` known names that are like a name, the most similar first."""
    return get_close_matches(name, [one for one in dict.fromkeys(known) if one != name], n=count, cutoff=cutoff)


def find_nearest_part(name: str, known: Iterable[str], count: int = MOST) -> list[str]:
    """Like `find_nearest`, for dotted paths that are meant by the whole or by their last part."""

    def similarity(path: str) -> float:
        return max(SequenceMatcher(None, name, part).ratio() for part in {path, path.rpartition(".")[2]})

    scored = sorted(((similarity(path), path) for path in set(known)), key=lambda pair: (-pair[0], pair[1]))
    return [path for score, path in scored[:count] if score >= CUTOFF]


def suggest(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown name: the similar known ones, or all of them."""
    names = list(known)
    return _ask(find_nearest(name, names)) or "allowed are " + ", ".join(names)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the question to append to a message, such as " (did you mean isic16?)"; an empty text if no name is near."""
    question = _ask(find_nearest(name, known))
    return question and f" ({question})"


def did_you_mean_path(path: Path) -> str:
    """Return the question for a path that does not exist: what lies beside it under a name like its own."""
    try:
        beside = [] if path.exists() else [other.name for other in path.parent.iterdir()]
    except OSError:
        return ""
    question = _ask([str(path.parent / name) for name in find_nearest(path.name, beside)])
    return question and f" ({question})"


def _ask(near: list[str]) -> str:
    """Return the question whether one of these names is meant; an empty text without names."""
    return f"did you mean {' or '.join(near)}?" if near else ""
