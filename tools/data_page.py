"""Fills the tables of docs/data.md: the options of reading and the data sets by name, from the code itself.

python tools/data_page.py           # writes the page
python tools/data_page.py --check   # only says whether it is up to date
"""

import sys
from dataclasses import fields
from pathlib import Path

from suisen.data.read import ReadOptions
from suisen.data.sources import SOURCES
from suisen.runs.config import FLAGS
from suisen.runs.settings import attribute_docs

PAGE = Path(__file__).parents[1] / "docs" / "data.md"


def options() -> str:
    """A row per option of reading: its name in Python and TOML, its flag, what it says."""
    docs = attribute_docs(ReadOptions)
    rows = ["| option | flag | |", "|---|---|---|"]
    for each in fields(ReadOptions):
        flag = FLAGS.get(each.name, "--" + each.name.replace("_", "-"))
        text = " ".join(docs[each.name].replace("``", "`").split()).replace("|", "\\|")
        rows.append(f"| `{each.name}` | `{flag}` | {text} |")
    return "\n".join(rows)


def sources() -> str:
    """A row per data set: its name, what it is, its licence, how it is had."""
    rows = ["| name | what | licence | from |", "|---|---|---|---|"]
    for source in SOURCES.values():
        where = f"[by hand]({source.page})" if source.page else "fetched"
        rows.append(f"| `{source.name}` | {source.description} | {source.licence} | {where} |")
    return "\n".join(rows)


def filled(text: str) -> str:
    """The page with its tables made anew."""
    for name, table in (("options", options()), ("sources", sources())):
        begin, end = f"<!-- {name} -->", "<!-- end -->"
        head, _, rest = text.partition(begin)
        text = f"{head}{begin}\n{table}\n{end}{rest.partition(end)[2]}"
    return text


def main() -> int:
    """Writes or checks the page; the exit status says whether it was up to date."""
    written = PAGE.read_text(encoding="utf-8")
    wanted = filled(written)
    if "--check" not in sys.argv:
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    print("docs/data.md is up to date" if written == wanted else "docs/data.md is old: python tools/data_page.py")
    return int(written != wanted)


if __name__ == "__main__":
    sys.exit(main())
