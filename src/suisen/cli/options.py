"""Commands whose options depend on the others: ``--retriever sasrec`` brings SASRec's hyper-parameters."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from suisen.cli.flags import GroupedCommand, GroupedOption, no_such_option, option_of
from suisen.errors import InputError
from suisen.recommending.sources import numbered
from suisen.runs import config
from suisen.runs.config import CHOICES, DEFAULTS, Raw
from suisen.runs.folder import finite
from suisen.runs.settings import TRUTHS

TITLES = {"lists": "Lists that the ranker learns on", "tune": "Tuning"}
"""Headings of ``--help`` that are not just the section's name."""
HELP = {
    "split": "Rule that cuts the log into train, valid and test.",
    "retriever": "Model of the first stage; may be repeated: then the candidates of all are merged.",
    "ranker": "Model of the second stage; alone it ranks the whole catalogue.",
    "index": "How the nearest item vectors are found.",
}


def chooser(section: str, title: str) -> GroupedOption:
    """``--retriever NAME``: picks a class."""
    names = "|".join(CHOICES[section])
    default = f" [default: {DEFAULTS[section]}]" if section in DEFAULTS else ""
    text = f"{HELP[section]} One of {names}; see its parameters with --{section} NAME --help.{default}"
    named = [f"--{section}", f"{section}__name"]
    several = section == "retriever"
    begun = partial(_begun, section)
    return GroupedOption(named, title, metavar="NAME", help=text, shell_complete=begun, multiple=several)


def _begun(section: str, _: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Names for the shell to complete."""
    return [name for name in CHOICES[section] if name.startswith(incomplete)]


class SettingsCommand(GroupedCommand):
    """A command with the settings of some sections; those of a chosen class join when it is chosen."""

    def __init__(self, *args: Any, sections: Sequence[str] = (), **more: Any) -> None:
        super().__init__(*args, **more)
        self.sections = tuple(sections)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Looks for the names of choices first, in the flags and in the file, so that their options exist."""
        ctx.meta["suisen.settings"] = self._dynamic(args)
        return super().parse_args(ctx, spelt_out(args, self.get_params(ctx)))

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own and those of the settings."""
        return [*super().get_params(ctx), *ctx.meta.get("suisen.settings", [])]

    def _dynamic(self, args: Sequence[str]) -> list[click.Parameter]:
        known = {**DEFAULTS, **_names_in_file(args)}
        out: list[click.Parameter] = []
        for section in self.sections:
            names = _names(section, args, known) if section in CHOICES else []
            title = TITLES.get(section, section.capitalize())
            if section in CHOICES:
                out.append(chooser(section, _titled(section, title, names)))
            for source, name in zip(numbered(names), names, strict=True) if len(names) > 1 else ():
                options = config.settings_in(section, name, source)
                out += [option_of(setting, _titled(section, title, [name])) for setting in options]
            if len(names) < 2:
                title = _titled(section, title, names)
                out += [option_of(each, title) for each in config.settings_in(section, names[0] if names else None)]
        return out

    def better(self, error: click.NoSuchOption, ctx: click.Context) -> click.UsageError:
        """What would make the option exist, or the nearest one that does."""
        section = error.option_name.removeprefix("--").partition(".")[0]
        if section in self.sections and section in CHOICES and "." in error.option_name:
            known = [opt for param in self.get_params(ctx) for opt in param.opts if opt.startswith(f"--{section}.")]
            if not known:
                return click.UsageError(
                    f"{error.option_name} needs --{section} NAME; one of {', '.join(CHOICES[section])}"
                )
            return no_such_option(error, known)
        return super().better(error, ctx)


def spelt_out(args: Sequence[str], params: Sequence[click.Parameter]) -> list[str]:
    """The arguments with ``--final`` and ``--no-final`` written as ``--final=true`` and ``--final=false``."""
    flags = {opt for param in params if getattr(param, "metavar", None) == "true|false" for opt in param.opts}
    out = []
    for word, after in zip(args, [*args[1:], ""], strict=False):
        if word in flags and after.lower() not in TRUTHS:
            out.append(f"{word}=true")
        else:
            yes = word.replace("--no-", "--", 1)
            out.append(f"{yes}=false" if word != yes and yes in flags else word)
    return out


def _all(args: Sequence[str], flag: str) -> list[str]:
    """The values of a flag in raw arguments."""
    found = []
    for at, word in enumerate(args):
        if word == flag and at + 1 < len(args):
            found.append(args[at + 1])
        elif word.startswith(f"{flag}="):
            found.append(word.partition("=")[2])
    return found


def _names(section: str, args: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    """The names of a section's choice: of the flags, else of the file, else the usual one; several of retrievers."""
    given = _all(args, f"--{section}")
    if not given:
        said = known.get(section)
        return [] if said is None else [str(each) for each in said] if isinstance(said, list) else [str(said)]
    return given if section == "retriever" else given[-1:]


def _titled(section: str, title: str, names: Sequence[str]) -> str:
    """A heading with the class that is chosen, where one is."""
    alone = len(names) == 1 and names[0] in CHOICES[section]
    return f"{title}: {CHOICES[section][names[0]].__name__}" if alone else title


def _names_in_file(args: Sequence[str]) -> dict[str, Any]:
    """The choices of the file that ``--config`` names."""
    paths = _all(args, "--config")
    tables = config.read_file(Path(paths[-1])) if paths else {}
    return {section: tables[section]["name"] for section in CHOICES if "name" in tables.get(section, {})}


def note(text: str) -> None:
    """Says something beside the answer, on the error stream."""
    click.echo(f"note: {text}", err=True)


def echo_json(value: Any) -> None:
    """Prints plain data; NaN and infinities become null."""
    click.echo(json.dumps(finite(value), ensure_ascii=False, indent=1))


def raw_of(given: Mapping[str, Any], file: str | None) -> Raw:
    """What flags and file say together."""
    theirs = {} if file is None else config.read_file(Path(file))
    return config.merged(theirs, config.flags_of(given), note)


def with_settings(*sections: str, **more: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Decorator: a command with the settings of these sections."""
    return click.command(cls=SettingsCommand, sections=sections, **more)


def only(given: Mapping[str, Any], allowed: Collection[str], what: str) -> None:
    """Refuses the flags that were given beside the allowed ones: they would have no effect."""
    context = click.get_current_context()
    flags = {param.name: param.opts[0] for param in context.command.get_params(context)}
    for name, value in given.items():
        if name not in allowed and value is not None and value != () and value is not False:
            raise InputError(f"{flags[name]} does not go with {what}")
