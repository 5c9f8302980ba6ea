"""Pages that are written by hand but for the figures between their marks, which come from records.

``<!-- figures: NAME -->`` opens a figure's place and ``<!-- end: NAME -->`` closes it.
"""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n)(.*?)(<!-- end: \2 -->)", re.DOTALL)
Figures = Mapping[str, Callable[[Path], str]]
"""What makes each figure from the folder of records."""


def absent(command: str) -> str:
    """Instead of a figure that nobody has measured."""
    return f"*Not measured yet: `{command}`.*"


def filled(text: str, figures: Figures, results: Path) -> str:
    """The page with its figures; KeyError names a mark that nobody fills, ValueError a figure without a mark."""
    marks = [found[1] for found in BLOCK.findall(text)]
    if lost := set(figures) - set(marks):
        raise ValueError(f"the page has no place for {', '.join(sorted(lost))}; add <!-- figures: NAME --> there")
    return BLOCK.sub(lambda match: f"{match[1]}\n{figures[match[2]](results)}\n\n{match[4]}", text)


def write_or_check(page: Path, new: str, tool: str) -> int:
    """Writes the page, or where the command line asks to, checks it; the exit status says whether it is up to date."""
    if "--check" not in sys.argv:
        page.write_text(new, encoding="utf-8")
        return 0
    same = page.exists() and page.read_text(encoding="utf-8") == new
    print(f"{page.name} is up to date" if same else f"{page.name} is out of date: run python tools/{tool}.py")
    return int(not same)
