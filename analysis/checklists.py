"""Reporting checklists (checklists.toml), filled with what a model card says."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

from analysis import markdown
from analysis.markdown import Markup, escape, link_section

BY_AUTHOR = "to be written by the author"


@dataclass(frozen=True)
class Item:
    """An item of a checklist, and where a card answers it."""

    number: str
    section: str  # of the checklist
    title: str  # in short words, not those of the checklist
    fact: str = ""  # name of a fact of the card
    see: tuple[str, ...] = ()  # sections of the card
    author: str = ""  # what is left to the author, if the card says anything

    @property
    def is_answered(self) -> bool:
        """Whether the card says anything of it."""
        return bool(self.fact or self.see)

    def answer(self, facts: dict[str, str]) -> Markup:
        """Return what the card says of it, and what is to be written by the author."""
        if not self.is_answered:
            return Markup(BY_AUTHOR)
        answers = [escape(facts[self.fact])] if self.fact else []
        links = [f"see {', '.join(map(link_section, self.see))}"] if self.see else []
        left = [f"{BY_AUTHOR}: {self.author}"] if self.author else []
        return Markup("; ".join([*answers, *links, *left]))


@dataclass(frozen=True)
class Checklist:
    """A checklist of what a publication reports."""

    name: str
    source: str
    note: str  # what it is written for
    items: tuple[Item, ...]

    def fill(self, facts: dict[str, str]) -> Iterator[str]:
        """Yield the lines of a card that list every item with its answer."""
        answered = [item for item in self.items if item.is_answered]
        whole = sum(not item.author for item in answered)
        yield from (f"### {self.name}", "")
        yield (
            f"{escape(self.source)}. {escape(self.note)} Titles are shortened. Of {len(self.items)} items this card answers "
            f"{whole}, and {len(answered) - whole} in part."
        )
        yield ""
        rows = [(item.number, item.section, item.title, item.answer(facts)) for item in self.items]
        yield from markdown.table(("item", "section", "what", "answer"), rows)


def load_checklists() -> list[Checklist]:
    """Return the checklists of checklists.toml."""
    tree = tomllib.loads(resources.files("analysis").joinpath("checklists.toml").read_text(encoding="utf-8"))
    return [
        Checklist(one["name"], one["source"], one["note"], tuple(map(_parse_item, one["items"])))
        for one in tree["checklist"]
    ]


def _parse_item(item: dict[str, str | list[str]]) -> Item:
    """Return an item of the file. Raises TypeError for a key that items do not have."""
    return Item(**{key: tuple(value) if isinstance(value, list) else value for key, value in item.items()})  # type: ignore[arg-type]
