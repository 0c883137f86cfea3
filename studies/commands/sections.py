"""A group of commands that imports a command's module when the command is needed."""

import importlib

import click

Sections = dict[str, dict[str, str]]  # title → name of a command → module that defines it


class LazyGroup(click.Group):
    """A group whose commands are listed in sections. A module defines the command `name` as its attribute `name`."""

    sections: Sections = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, section by section."""
        return [name for names in self.sections.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; return None if there is no command of this name."""
        modules = {name: module for names in self.sections.values() for name, module in names.items()}
        if cmd_name not in modules:
            return None
        command = getattr(importlib.import_module(modules[cmd_name]), cmd_name)
        assert isinstance(command, click.Command), f"{modules[cmd_name]}.{cmd_name} is no command"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections with the first sentence of each command's help."""
        names = self.list_commands(ctx)
        width = max(map(len, names))
        for title, modules in self.sections.items():
            commands = [(name.ljust(width), self.get_command(ctx, name)) for name in modules]
            with formatter.section(title):
                formatter.write_dl([(name, _first_sentence(command)) for name, command in commands if command])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments begin with. Raises UsageError, with the nearest names, if there is none."""
        names = self.list_commands(ctx)
        if args[0] not in names and not args[0].startswith("-"):
            from diffseg.suggestions import did_you_mean

            ctx.fail(f"there is no command '{args[0]}'{did_you_mean(args[0], names)}: `diffseg` lists all")
        return super().resolve_command(ctx, args)


def _first_sentence(command: click.Command) -> str:
    """Return the first sentence of a command's help, whole."""
    return command.get_short_help_str(limit=1000)
