"""Commands, groups and arguments of the command line, and the errors of wrong usage.

A command returns its exit status, or nothing if all is well. Whatever is wrong with
the words that were given ends as ``ConfigError``: what was given, what is allowed, and
where to read more.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from tapestry.cli import console
from tapestry.cli.exit_status import MEANINGS
from tapestry.errors import ConfigError
from tapestry.storage.folder_owner import require_own_folder

PATH: "click.Path[Path]" = click.Path(path_type=Path)
"""A file or folder; the code that opens it reports what is wrong with it."""


class _OwnFolder(click.Path[Path]):
    """A folder that the command writes into; it has to be this user's."""

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Path:
        """Read a path.

        Raises:
            ConfigError: A folder is there, and is another user's.
        """
        folder = super().convert(value, param, ctx)
        require_own_folder(folder)
        return folder


OWN_FOLDER = _OwnFolder(path_type=Path)
"""The folder of a party, for each command that writes there."""


class NoVerb(Exception):
    """A role was named without a verb; carries the help to show."""


class Argument(click.Argument):
    """An argument with a description."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        help: str,  # noqa: A002  click's word
        metavar: str,
        type: "click.Path[Path] | None" = None,  # noqa: A002  click's word
        default: Any = None,
        nargs: int = 1,
    ) -> None:
        given = {} if default is None else {"default": default}
        super().__init__(
            names,
            required=default is None,
            metavar=metavar,
            type=type,
            nargs=nargs,
            **given,
        )
        self.description = help

    def get_help_record(self, _ctx: click.Context) -> tuple[str, str]:
        """Return the metavar and the description."""
        return _metavar(self), self.description


class _Helpful(click.Command):
    """A command whose help goes where results go, and fails as they do."""

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Return the option; click's own would say nothing to a closed stream."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.callback = _show_help
        return option


class Command(_Helpful):
    """A command whose help describes its arguments and its exit statuses."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words of the command line."""
        with _located(ctx):
            return super().parse_args(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write usage, text, arguments, options and the table of exit statuses."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        for title, kind in (("Arguments", click.Argument), ("Options", click.Option)):
            found = [p for p in self.get_params(ctx) if isinstance(p, kind)]
            records = [p.get_help_record(ctx) for p in found]
            if rows := [record for record in records if record is not None]:
                with formatter.section(title):
                    formatter.write_dl(rows)
        _write_statuses(formatter)


class CommandGroup(_Helpful, click.Group):
    """A role: commands under one name, which shows its help when no verb is given."""

    command_class = Command

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Name the commands, in the order in which they are declared."""
        return list(self.commands)

    def summaries(self) -> list[tuple[str, str]]:
        """Name the commands, each with its first sentence."""
        return [
            (name, (command.help or "").split("\n\n")[0].replace("\n", " "))
            for name, command in self.commands.items()
        ]

    def format_commands(
        self, _ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the commands, each with its whole first sentence."""
        with formatter.section("Commands"):
            formatter.write_dl(self.summaries())

    def format_epilog(
        self, _ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the table of exit statuses."""
        _write_statuses(formatter)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read what comes before a verb.

        Raises:
            NoVerb: The command line ends behind the role.
        """
        if not args and not ctx.resilient_parsing:
            raise NoVerb(ctx.get_help())
        with _located(ctx):
            return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command by its name.

        Raises:
            ConfigError: The group has no command of this name; the message lists those
                that it has.
        """
        command = self.get_command(ctx, args[0])
        if command is None:
            known = ", ".join(self.list_commands(ctx))
            raise ConfigError(
                f"no command {args[0]!r}; choose from {known}; {_see(ctx)}",
                code="usage",
            )
        return args[0], command, args[1:]


class Roles(CommandGroup):
    """The top group, which imports a role only when it is asked for."""

    modules: Mapping[str, tuple[str, str]] = {}
    """For each role, the module that has it as ``app``, and its summary."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Name the roles, in the order of the handbook."""
        return list(self.modules)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a role."""
        if cmd_name not in self.modules:
            return None
        command = import_module(self.modules[cmd_name][0]).app
        if not isinstance(command, click.Command):
            raise TypeError(f"{cmd_name} is no command")
        command.name = cmd_name
        return command

    def summaries(self) -> list[tuple[str, str]]:
        """Name the roles, each with its summary, without importing anything."""
        return [(name, summary) for name, (_, summary) in self.modules.items()]


as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object, for machines."
)


def usage_error(error: click.UsageError) -> ConfigError:
    """Return the error of wrong usage: what was given, and what is allowed."""
    context = error.ctx
    said = _lower(error.format_message())
    if context is None:
        return ConfigError(said, code="usage")
    command = context.command
    match error:
        case click.NoSuchOption():
            known = ", ".join(_options(command))
            said = f"no option {error.option_name}; choose from {known}"
        case click.MissingParameter() if error.param is not None:
            said = f"{_name(error.param)} is missing{_wanted(error.param)}"
        case click.BadParameter() if error.param is not None:
            example = _example(error.param, context)
            said = f"{_name(error.param)}: {_lower(error.message)}{example}"
        case click.BadOptionUsage():
            pass
        case _ if "unexpected extra" in said:
            said = f"{context.command_path} takes {_arguments(command)}; {said}"
    return ConfigError(f"{said}; {_see(context)}", code="usage")


@contextmanager
def _located(context: click.Context) -> Iterator[None]:
    """Add the command to an error of usage; click's parser leaves it out."""
    try:
        yield
    except click.UsageError as error:
        error.ctx = error.ctx or context
        raise


def _show_help(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        console.say_page(context.get_help())
        context.exit()


def _see(context: click.Context) -> str:
    return f"see {context.command_path} --help"


def _options(command: click.Command) -> list[str]:
    found = [p for p in command.params if isinstance(p, click.Option)]
    return [*(option.opts[0] for option in found), "--help"]


def _name(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Option):
        return parameter.opts[0]
    return _metavar(parameter)


def _metavar(parameter: click.Parameter) -> str:
    return parameter.metavar or (parameter.name or "").upper()


def _wanted(parameter: click.Parameter) -> str:
    text = getattr(parameter, "description", None) or getattr(parameter, "help", None)
    return f": {_lower(text)}" if text else ""


def _example(parameter: click.Parameter, context: click.Context) -> str:
    """Show a value that would do, where the default is one."""
    default = parameter.get_default(context)
    if not isinstance(parameter, click.Option) or not isinstance(default, int | float):
        return ""
    return f"; for example {parameter.opts[0]} {default}"


def _write_statuses(formatter: click.HelpFormatter) -> None:
    with formatter.section("Exit status"):
        formatter.write_dl([(str(int(s)), text) for s, text in MEANINGS.items()])


def _arguments(command: click.Command) -> str:
    found = [p for p in command.params if isinstance(p, click.Argument)]
    return " ".join(_metavar(each) for each in found) or "no arguments"


def _lower(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]
