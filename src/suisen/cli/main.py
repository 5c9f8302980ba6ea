"""``suisen …``: the group of commands, found when they are asked for, and the one place where errors become lines."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from suisen.cli.flags import in_flags
from suisen.errors import SuisenError, unknown

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo:demo", "The whole path in one go on MovieLens-100K: data, training, measuring, serving."),
    "data": ("data:data", "Fetch a public data set, look into any event log."),
    "train": ("train:train", "Train a retriever, a ranker or both, and measure them, into a run folder."),
    "tune": ("tune:tune", "Search the settings of a model that are best on validation (extra: tune)."),
    "evaluate": ("evaluate:evaluate", "Measure a trained run or bundle again, with other metrics."),
    "compare": ("evaluate:compare", "Paired differences between runs on the same test queries."),
    "recommend": ("recommend:recommend", "Recommendations for users, histories or features, or for everybody."),
    "similar": ("similar:similar", "The items most alike to one."),
    "bundle": ("bundle:bundle", "Sign bundles, and check whose they are and that they are whole."),
    "export": ("export:export", "A bundle as ONNX graphs, or as a Triton model repository (extra: export)."),
    "serve": ("serve:serve", "Answer over HTTP from a run or bundle."),
    "admin": ("admin:admin", "Swap models and block items while a server answers."),
    "keys": ("keys:keys", "Make keys for those who may ask a server."),
    "experiment": ("experiment:experiment", "Plan, assign, analyze and report an A/B experiment."),
}
"""Name → where the command lives in ``suisen.cli``, and its line in ``suisen --help``.  Nothing is imported before."""


def _all_params(command: click.Command | None, ctx: click.Context) -> list[click.Parameter]:
    """The options of a command, and of those below it."""
    below = (
        [command.get_command(ctx, name) for name in command.list_commands(ctx)]
        if isinstance(command, click.Group)
        else []
    )
    own = [] if command is None else command.get_params(ctx)
    return own + [param for one in below for param in _all_params(one, ctx)]


class Suisen(click.Group):
    """Imports a command when it is asked for; prints every expected error as one line and exits with 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"suisen.cli.{module}"), name)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands' names, without importing them."""
        named = [CompletionItem(name, help=said) for name, (_, said) in COMMANDS.items() if name.startswith(incomplete)]
        return [*named, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands' lines, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A misspelt command gets the nearest one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(str(unknown("command", args[0], COMMANDS)), ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; its errors name flags where Python's name arguments."""
        try:
            return super().invoke(ctx)
        except SuisenError as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            params = _all_params(command, ctx)
            raise click.ClickException(in_flags(str(error), params)) from error

    def main(self, args: Sequence[str] | None = None, *_: Any, **extra: Any) -> NoReturn:
        """Runs a command and exits: 0, 2 for what the caller can mend, 130 when interrupted."""
        extra.pop("standalone_mode", None)
        prog = extra.pop("prog_name", None) or "suisen"
        try:
            code = super().main(args, prog, standalone_mode=False, **extra)
        except (KeyboardInterrupt, click.Abort):
            click.echo("interrupted", err=True)
            sys.exit(130)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.ctx.get_help() if error.ctx is not None else "")
            sys.exit(0)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone, as `| head` does
            sys.exit(141)
        except (SuisenError, click.ClickException, OSError) as error:
            click.echo(f"error: {line_of(error)}", err=True)
            sys.exit(2)
        sys.exit(code if isinstance(code, int) else 0)


def line_of(error: Exception) -> str:
    """An error in one line."""
    text = error.format_message() if isinstance(error, click.ClickException) else str(error)
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        text = f"{error.strerror}{where}"
    return " ".join(text.split()) or type(error).__name__


CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True}
"""What all commands inherit."""


@click.group(cls=Suisen, context_settings=CONTEXT)
@click.version_option(package_name="suisen", message="suisen %(version)s")
def cli() -> None:
    """From an event log to a measured, served two-stage recommender.

    \b
    suisen demo                                        the whole path on MovieLens-100K, in minutes
    suisen data inspect my.csv                         what was understood of your own file
    suisen train --events my.csv --retriever item-knn --out runs/a
    suisen recommend runs/a --user 17 -k 10
    suisen serve runs/a

    Every command has its own --help, with an example.  Columns are found under their usual names (user, item, time,
    customer_id, sku, timestamp, …); others are named with --user, --item and --time.

    \b
    Completion of commands, options and model names in your shell:
    bash   eval "$(_SUISEN_COMPLETE=bash_source suisen)"
    zsh    eval "$(_SUISEN_COMPLETE=zsh_source suisen)"
    fish   _SUISEN_COMPLETE=fish_source suisen | source
    """  # noqa: D301 - \b keeps the lines for click


def main() -> NoReturn:
    """The entry point."""
    cli.main()


if __name__ == "__main__":
    main()
