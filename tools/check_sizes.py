"""Sizes that keep the house readable: its lines of code per room against a budget, no large file, no large function.

A line of code is one that holds code: blank lines, comments and docstrings (of fields, too) do not count, so that words
are free.  A change that needs more than ``BUDGET`` raises it here, and its commit says what for.
"""

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

SOURCE = Path("src/suisen")
LINES, CODE = 500, 60
"""Most lines of a file, words included; most lines of a function without its docstring."""
BUDGET = 41_500
"""Most lines of code of the package."""
WORDLESS = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING)


def docstring_lines(tree: ast.AST) -> set[int]:
    """Numbers of the lines that hold nothing but a string that stands alone."""
    alone = (node for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    strings = (node for node in alone if isinstance(node.value.value, str))
    return {line for node in strings for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}


def lines_of_code(text: str) -> int:
    """Lines that hold code.

    >>> lines_of_code('"Words."' + chr(10) * 2 + 'x = 1  # a comment' + chr(10) + '# another')
    1
    """
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    kept = (token for token in tokens if token.type not in (*WORDLESS, tokenize.ENDMARKER))
    lines = {line for token in kept for line in range(token.start[0], token.end[0] + 1)}
    return len(lines - docstring_lines(ast.parse(text)))


def function_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    doc = ast.get_docstring(function, clean=False)
    return (function.end_lineno or 0) - function.lineno + 1 - (doc.count("\n") + 1 if doc else 0)


def too_large(path: Path, text: str) -> list[str]:
    """What is to be split in a file."""
    found = []
    if (lines := text.count("\n")) > LINES:
        found.append(f"{path}: {lines} lines, at most {LINES}; split the file")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (size := function_lines(node)) > CODE:
            found.append(f"{path}:{node.lineno}: {node.name} has {size} lines of code, at most {CODE}; split it")
    return found


def main() -> int:
    """Prints the rooms and what is too large; the exit status says whether anything is."""
    found: list[str] = []
    rooms: Counter[str] = Counter()
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        inside = path.relative_to(SOURCE).parts
        rooms[inside[0] if len(inside) > 1 else "(root)"] += lines_of_code(text)
        found += too_large(path, text)
    for room, count in rooms.most_common():
        print(f"{count:7,}  {room}")
    total = rooms.total()
    print(f"{total:7,}  lines of code; the budget is {BUDGET:,}")
    if total > BUDGET:
        found.append(f"{total:,} lines of code, at most {BUDGET:,}; delete as you add, or say in tools/check_sizes.py")
    print("\n".join(found) or "every file and every function is small enough")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
