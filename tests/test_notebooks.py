"""The notebooks in examples/ run, top to bottom, and nothing of a run is committed with them."""

import ast
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ("first_steps", "own_data", "two_stages", "experiment")
CELLS = 26
"""Most cells: a newcomer reads them in one sitting."""
SECONDS = 120


def cells_of(name):
    """(kind, text) of each cell."""
    read = json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))
    return [(cell["cell_type"], "".join(cell["source"])) for cell in read["cells"]]


def test_all_notebooks_are_tested():
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_short_and_clean(name):
    read = json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert len(read["cells"]) <= CELLS
    for cell in read["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
    kinds = [kind for kind, _ in cells_of(name)]
    assert kinds[0] == "markdown"
    assert len({cell["id"] for cell in read["cells"]}) == len(kinds)


def as_script(name):
    """The code as one script in which the last expression of each cell is shown as a notebook shows it."""
    parts = ["def show(value):\n    print(getattr(value, '_repr_html_', value.__repr__)())"]
    for kind, text in cells_of(name):
        if kind == "code":
            tree = ast.parse(text)
            if isinstance(tree.body[-1], ast.Expr):
                tree.body[-1].value = ast.Call(ast.Name("show", ast.Load()), [tree.body[-1].value], [])
            parts.append(ast.unparse(ast.fix_missing_locations(tree)))
    return "\n".join(parts)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_as_a_script(name, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", as_script(name)],
        cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "<table>" in done.stdout or name == "experiment"


@pytest.mark.skipif(
    not (find_spec("nbclient") and find_spec("ipykernel")),
    reason="nbclient and ipykernel are not installed (make setup brings them); the cells ran as scripts",
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_in_a_kernel(name, tmp_path):
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    nbformat.validate(book)
    NotebookClient(book, timeout=SECONDS, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = json.dumps(book)
    assert "text/html" in shown
    if name != "experiment":
        assert "learnt from" in shown  # fit tells a person in a notebook that it is done
    if name == "own_data":
        assert "note: orders.csv" in shown
