"""Sizes that keep the house readable: no file of the package above 500 lines, no function above 60 lines of code."""

import ast
import sys
from pathlib import Path

LINES, CODE = 500, 60


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    doc = ast.get_docstring(function, clean=False)
    return (function.end_lineno or 0) - function.lineno + 1 - (doc.count("\n") + 1 if doc else 0)


def main() -> int:
    """Prints what is too large; the exit status says whether anything is."""
    found = []
    for path in sorted(Path("src").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if (lines := text.count("\n")) > LINES:
            found.append(f"{path}: {lines} lines, at most {LINES}; split the file")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (size := code_lines(node)) > CODE:
                found.append(f"{path}:{node.lineno}: {node.name} has {size} lines of code, at most {CODE}; split it")
    print("\n".join(found) or "sizes: every file and every function is small enough")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
