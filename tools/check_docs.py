"""Pages that must agree with their sources: the changelog with the version, docs/benchmarks.md with the results."""

import difflib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))


def changelog(text: str, version: str) -> str | None:
    """What is wrong with the first version that the changelog names; None: nothing."""
    head = re.search(r"^## \[?v?(\d[\w.]*)", text, re.MULTILINE)
    if head is None:
        return "CHANGELOG.md names no version; open it with a line like '## 0.1.0'"
    if head[1] != version:
        return f"CHANGELOG.md starts with {head[1]} and suisen.__version__ is {version}; make them equal"
    return None


def page(written: str, wanted: str, name: str = "docs/benchmarks.md") -> str | None:
    """Where the page differs from what the results say; None: nowhere."""
    if written == wanted:
        return None
    lines = difflib.unified_diff(written.splitlines(), wanted.splitlines(), lineterm="", n=0)
    changed = [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    first = changed[0] if changed else "its last line ends otherwise"
    return f"{name} is not what benchmarks/results say (first: {first!r}); run python benchmarks/report.py"


def main() -> int:
    """Prints what is wrong; the exit status says whether anything is."""
    import report

    import suisen

    found = [
        changelog((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), suisen.__version__),
        page(report.PAGE.read_text(encoding="utf-8") if report.PAGE.exists() else "", report.page()),
    ]
    wrong = [line for line in found if line]
    print("\n".join(wrong) or "docs: the changelog's head is the version, docs/benchmarks.md is what the results say")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
