"""Writes the map in ARCHITECTURE.md: one line per room and file, the first sentence of each file's docstring.

python tools/architecture.py          # writes it
python tools/architecture.py --check  # fails where it is not up to date
"""

import ast
import re
import sys
from pathlib import Path

from figures import write_or_check

PAGE, START, END = Path("ARCHITECTURE.md"), "each file -->\n", "<!-- end of map -->"
ROOMS = (
    "cli",
    "serving",
    "runs",
    "pages",
    "pipeline",
    "recommending",
    "recommending/exporting",
    "recommending/kernels",
    "recommending/rules",
    "experiments",
    "experiments/simulation",
    "training",
    "models",
    "retrieval",
    "evaluation",
    "data",
)


def first_sentence(path: Path) -> str:
    """Of the docstring, on one line."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split())
    return re.split(r"(?<!et al)(?<![ .][A-Z])\.(?:\s|$)", text)[0].rstrip(":.")


def the_map() -> str:
    """Markdown: the rooms from the top, then the files at the bottom of the house."""
    root, lines = Path("src/suisen"), []
    for room in ROOMS:
        lines += ["", f"**{room}/**: {first_sentence(root / room / '__init__.py')}", ""]
        files = sorted(path for path in (root / room).glob("*.py") if path.name != "__init__.py")
        lines += [f"- `{path.name}`: {first_sentence(path)}" for path in files]
    lines += ["", "**At the bottom**", ""]
    lines += [f"- `{path.name}`: {first_sentence(path)}" for path in sorted(root.glob("*.py"))]
    return "\n".join([*lines, ""]) + "\n"


def main() -> int:
    """Writes or checks; the exit status says whether the page is up to date."""
    page = PAGE.read_text(encoding="utf-8")
    head, tail = page.split(START)[0] + START, END + page.split(END)[1]
    return write_or_check(PAGE, head + the_map() + tail, "architecture")


if __name__ == "__main__":
    sys.exit(main())
