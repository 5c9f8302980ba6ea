"""docs/models.md: every model with all that it is asked to say."""

import sys
from dataclasses import fields
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tools")]

import accuracy_table  # noqa: E402
import models_page  # noqa: E402

from suisen.models import EASE, FM, IALS, MODELS, SASRec  # noqa: E402


def test_every_model_and_parameter_is_on_the_page():
    page = models_page.page()
    for name, cls in MODELS.items():
        assert f"\n## {name}\n" in page
        assert f"[{name}](#{name})" in page
        for field in fields(cls):
            assert f"| `{field.name}` |" in models_page.section(name, cls)


def test_tables_are_rectangular():
    rows = [line for line in models_page.page().splitlines() if line.startswith("|")]
    widths = {line.replace("\\|", "").count("|") for line in rows}
    assert widths == {6, 7, 9}


def test_papers_and_kinds_are_read_from_the_models_own_files():
    assert models_page.papers(SASRec).startswith("Kang & McAuley 2018")
    assert models_page.papers(EASE) == "Steck 2019"
    assert "Hu et al. 2008" in models_page.papers(IALS)
    assert [models_page.kind(cls) for cls in (EASE, IALS, FM)] == ["catalogue scorer", "retriever", "ranker"]


def test_a_parameter_says_bounds_default_and_search():
    row = "| `l2` | NUMBER | > 0 | 500 | λ, added to the diagonal of XᵀX. | 10 … 5000, log |"
    assert row in models_page.section("ease", EASE)
    assert "also `--ranker sasrec`" in models_page.section("sasrec", SASRec)
    assert "also" not in models_page.section("ease", EASE).splitlines()[2]


def test_figures_are_means_over_the_seeds_or_a_dash():
    runs = tuple({"seed": s, "metrics": {"hr@10": v}, "seconds": 60.0, "epochs": 3} for s, v in enumerate((0.5, 0.6)))
    line = accuracy_table.Line("ease", "ease", "ncf-ml-1m", {"hr@10": 0.5}, "", "", runs)
    command = "`make bench-accuracy MODEL=ease DATA=ncf-ml-1m`"
    made = models_page.reached([line])
    assert f"| ease | ncf-ml-1m | hr@10 0.5500 | 60 | {command} |" in made
    assert "| popularity | – | – | – | – |" in made
    absent = accuracy_table.Line("ease", "ease", "ncf-ml-1m", {}, "", "", ())
    assert f"| ease | ncf-ml-1m | – | – | {command} |" in models_page.reached([absent])


def test_check_says_what_to_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models_page, "PAGE", tmp_path / "models.md")
    monkeypatch.setattr(sys, "argv", ["models_page.py", "--check"])
    assert models_page.main() == 1
    assert "run python tools/models_page.py" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["models_page.py"])
    assert models_page.main() == 0
    monkeypatch.setattr(sys, "argv", ["models_page.py", "--check"])
    assert models_page.main() == 0


@pytest.mark.parametrize(
    ("value", "said"),
    [((128, 64), "128, 64"), (None, "none"), (True, "true"), (1e-6, "1e-06"), ("auto", "auto"), ((), "")],
)
def test_defaults_are_spelt_as_one_types_them(value, said):
    assert models_page.spelt(value) == said
