"""Options that are fields of a dataclass, under headings; nothing here loads a model."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import click

from suisen.errors import unknown
from suisen.runs.settings import Setting

_FIELD = re.compile(r"^(?:(?P<cls>\w+): )?(?P<name>\w+(?:\.\w+)?)(?= (?:=|needs) )")
"""What a message is about: ``k = 0 …``, ``LeaveLast: test = 0 …``, ``split.test = x …``."""
_MEND = re.compile(r"(?<![\w(.\[])(?P<name>\w+)=(?:(?P<value>'[^']*'|\"[^\"]*\"|True|False|[\d.]+\b)|(?=[ ,;:)]|$))")
"""What to give instead: ``unknown='popular'``, ``session=``."""


def in_flags(text: str, params: Sequence[click.Parameter]) -> str:
    """A message with the command's flags in place of Python's arguments.

    >>> in_flags("k = 0 is too few; pass unknown='skip'", [click.Option(["-k"]), click.Option(["--unknown"])])
    '-k = 0 is too few; pass --unknown skip'
    """

    def flag(name: str, cls: str | None = None) -> str:
        wanted = name.replace(".", "__")
        found = [param for param in params if wanted in (param.name, str(param.name).rpartition("__")[2])]
        if cls:
            found = [param for param in found if getattr(param, "group", "").endswith(f": {cls}")]
        names = {param.opts[0] for param in found if param.opts[0].startswith("-")}
        return names.pop() if len(names) == 1 else ""

    def mended(match: re.Match[str]) -> str:
        before = match.string[: match.start()]
        call = before.count("(") > before.count(")")  # LeaveLast(test=1, valid=1) is no flag
        found, value = "" if call else flag(match["name"]), (match["value"] or "").strip("'\"")
        value = value.lower() if value in ("True", "False") else value
        return f"{found} {value}".strip() if found else match[0]

    text = _MEND.sub(mended, text)
    return _FIELD.sub(lambda match: flag(match["name"], match["cls"]) or match[0], text)


class GroupedOption(click.Option):
    """A setting's option, its text read later; it knows under which heading of ``--help`` it stands."""

    def __init__(self, names: Sequence[str], group: str, **more: Any) -> None:
        super().__init__(names, type=click.UNPROCESSED, **more)
        self.group = group


def option_of(setting: Setting, title: str) -> GroupedOption:
    """A setting's flag."""
    names = [setting.flag, setting.parameter]
    return GroupedOption(names, title, multiple=setting.several, metavar=setting.metavar, help=setting.help)


def no_such_option(error: click.NoSuchOption, known: Iterable[str]) -> click.UsageError:
    """The mistake, with the nearest known option."""
    return click.UsageError(str(unknown("option", error.option_name, known)))


FIRST = "What matters first"
"""Heading of the options that a newcomer needs; the others come below."""


class GroupedCommand(click.Command):
    """A command whose options stand under headings, and which names the nearest one where there is no such option."""

    def __init__(self, *args: Any, first: Sequence[str] = (), **more: Any) -> None:
        super().__init__(*args, **more)
        self.first = tuple(first)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, with a better word for an unknown option."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise self.better(error, ctx) from None

    def better(self, error: click.NoSuchOption, ctx: click.Context) -> click.UsageError:
        """What is said of an unknown option."""
        return no_such_option(error, [opt for param in self.get_params(ctx) for opt in param.opts])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Under their headings, those of ``first`` before all others and in its order."""
        groups: dict[str, list[tuple[str, str]]] = {FIRST: []} if self.first else {}
        params = self.get_params(ctx)
        for param in sorted(params, key=self._place):
            record = param.get_help_record(ctx)
            if record is not None:
                title = FIRST if self._place(param) < len(self.first) else getattr(param, "group", "Options")
                groups.setdefault(title, []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def _place(self, param: click.Parameter) -> int:
        """Where an option stands among the first ones; behind them all for the others."""
        return next((place for place, flag in enumerate(self.first) if flag in param.opts), len(self.first))
