"""The classes of a data set, and the numbers by which decoded masks store them. Imports no torch."""

from dataclasses import dataclass

from diffseg.config.data import BACKGROUND, Data

IGNORED = 255  # the number of pixels that count in no loss and no metric
FOREGROUND = "foreground"  # the class of binary masks
Value = int | str  # of a pixel in a mask file: a number, or a colour "#rrggbb"


@dataclass(frozen=True)
class Classes:
    """The classes that masks distinguish, besides the background.

    A decoded mask stores one number a pixel: 0 for background, 1 to N for labels, IGNORED. A label stands for the values
    that belong to the same classes. An exclusive class has one label; regions may share labels.
    """

    names: tuple[str, ...]
    numbers: tuple[tuple[int, ...], ...]  # by class: the numbers of its pixels
    values: tuple[tuple[Value, ...], ...]  # by number, from 1: the values in files; none if data.foreground decides
    background: tuple[Value, ...]  # values in files, besides 0 and black
    ignored: tuple[Value, ...]
    exclusive: bool  # whether no pixel belongs to two classes

    @classmethod
    def of(cls, data: Data) -> "Classes":
        """Return the classes that the settings of a data set describe."""
        table = {name: values for name, values in data.classes if name != BACKGROUND}
        background = dict(data.classes).get(BACKGROUND, ())
        if not table:
            return cls((FOREGROUND,), ((1,),), (), background, data.ignore, True)
        membership: dict[Value, tuple[str, ...]] = {
            value: tuple(name for name, own in table.items() if value in own)
            for values in table.values()
            for value in values
        }
        labels = list(dict.fromkeys(membership.values()))  # by number, from 1: the classes of a label
        return cls(
            names=tuple(table),
            numbers=tuple(tuple(k for k, label in enumerate(labels, 1) if name in label) for name in table),
            values=tuple(tuple(value for value, own in membership.items() if own == label) for label in labels),
            background=background,
            ignored=data.ignore,
            exclusive=not data.regions or len(table) == 1,
        )

    @property
    def count(self) -> int:
        """The number of classes, without the background."""
        return len(self.names)

    @property
    def channels(self) -> int:
        """The channels of a mask with one channel a class: exclusive classes have one for the background, too."""
        return self.count + 1 if self.exclusive and self.count > 1 else self.count

    @property
    def description(self) -> str:
        """The classes with their values, such as "anterior=1, posterior=2+3"; without values if data.foreground decides."""
        if not self.values:
            return ", ".join(self.names)
        return ", ".join(
            f"{name}={'+'.join(str(value) for number in numbers for value in self.values[number - 1])}"
            for name, numbers in zip(self.names, self.numbers, strict=True)
        )

    @property
    def rows(self) -> tuple[str, ...]:
        """The names under which measurements are kept: "all" for the mean over the classes, then each of several classes."""
        return ("all", *self.names) if self.count > 1 else ("all",)


BINARY = Classes.of(Data())  # of masks without named classes
