"""From a template and its parts to a page: one file that asks the network for nothing."""

from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

from suisen.errors import missing_extra
from suisen.pages.draw import Svg


def asset(name: str) -> str:
    """The text of a template or a style sheet of this folder."""
    return resources.files("suisen.pages").joinpath(name).read_text(encoding="utf-8")


def render(template: str, parts: Mapping[str, Any], tools: Sequence[Callable[..., str]]) -> str:
    """The page as text.  Everything that comes from data is escaped.

    ``tools``: what the template may call by its name, as a function and as a filter.

    Raises MissingExtra without Jinja.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError:
        raise missing_extra("jinja2", "report") from None
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    named = {tool.__name__: tool for tool in tools}
    page.globals.update(named)
    page.filters.update(named, count=lambda value: f"{value:,}")
    style = Svg(asset("colours.css") + asset("report.css"))
    return page.from_string(asset("parts.html") + asset(template)).render(parts, style=style)
