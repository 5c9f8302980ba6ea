"""docs/data.md: its tables come from the code, and every format and data set stands in it."""

import sys
from pathlib import Path
from typing import get_args

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import data_page  # noqa: E402

from suisen.data.raw import Format  # noqa: E402
from suisen.data.sources import SOURCES  # noqa: E402

TEXT = data_page.PAGE.read_text(encoding="utf-8")


def test_the_page_is_what_the_code_says():
    assert data_page.filled(TEXT) == TEXT, "run: python tools/data_page.py"


def test_every_format_and_data_set_stands_in_it():
    assert [name for name in get_args(Format) if f"`{name}`" not in TEXT] == []
    assert [name for name in SOURCES if f"| `{name}` |" not in TEXT] == []
