"""Expressions are read as they are written, and what cannot be read names the place and the mend."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suisen.errors import InputError
from suisen.recommending.rules.language import And, Column, Comparison, IsNull, Not, Or, Request, Value, operands, parse

A, B, AGE = Column("a"), Column("b c"), Request("age")
NAMES = st.sampled_from([A, B, AGE, Request("x y")])
SCALARS = st.one_of(
    st.booleans(), st.integers(-(10**6), 10**6), st.floats(-1e6, 1e6).filter(lambda x: x != int(x)), st.text(max_size=5)
)
COMPARED = st.builds(Comparison, NAMES, st.sampled_from(["==", "<", "<=", ">", ">="]), st.builds(Value, SCALARS))
FLIPPED = COMPARED.map(lambda tree: Comparison(tree.right, tree.sign, tree.left))
MEMBERS = st.builds(
    Comparison, NAMES, st.just("in"), st.one_of(NAMES, st.builds(Value, st.lists(SCALARS, max_size=3).map(tuple)))
)
LEAVES = st.one_of(COMPARED, FLIPPED, MEMBERS, st.builds(IsNull, NAMES))
TREES = st.recursive(
    LEAVES,
    lambda parts: st.one_of(
        st.builds(Not, parts),
        st.builds(And, st.lists(parts, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(parts, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=8,
)


def written(tree):
    """The tree as text, every part in brackets."""
    match tree:
        case Column(name):
            return f"`{name}`"
        case Request(name):
            return f"request.`{name}`"
        case Value(value):
            return f"[{', '.join(map(spelt, value))}]" if isinstance(value, tuple) else spelt(value)
        case Comparison(left, sign, right):
            return f"({written(left)} {sign} {written(right)})"
        case IsNull(operand):
            return f"({written(operand)} is null)"
        case Not(part):
            return f"(not {written(part)})"
        case And(parts) | Or(parts):
            return "(" + (" and " if isinstance(tree, And) else " or ").join(map(written, parts)) + ")"


def spelt(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


@given(TREES)
def test_what_is_written_is_read(tree):
    assert parse(written(tree), "rule 'r'") == tree


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a == 1 or a == 2 and not a == 3", Or((Comparison(A, "==", Value(1)),
                                                And((Comparison(A, "==", Value(2)),
                                                     Not(Comparison(A, "==", Value(3)))))))),
        ("(a == 1 or a == 2) and a == 3", And((Or((Comparison(A, "==", Value(1)), Comparison(A, "==", Value(2)))),
                                               Comparison(A, "==", Value(3))))),
        ("a!='x'", Not(Comparison(A, "==", Value("x")))),
        ("a not in [1,-2.5e3 , ]", Not(Comparison(A, "in", Value((1, -2500.0))))),
        ("request.age is not null", Not(IsNull(AGE))),
        ("not not a is null", Not(Not(IsNull(A)))),
        ("\n a\t<= request.age\n", Comparison(A, "<=", AGE)),
        (r"""a == 'it\'s "so"'""", Comparison(A, "==", Value("it's \"so\""))),
        ("`b c` in request.age", Comparison(B, "in", AGE)),
        ("'x' in a", Comparison(Value("x"), "in", A)),
        ("ändert == true", Comparison(Column("ändert"), "==", Value(True))),
    ],
)  # fmt: skip
def test_precedence_and_spelling(text, tree):
    assert parse(text, "rule 'r'") == tree


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "rule 'r': '': a column, request.NAME or a value expected at character 1, not the end"),
        ("a = 1", "'=' at character 3 says nothing here; write == to compare"),
        ("a == 1 b", "and, or or the end expected at character 8, not 'b'"),
        ("a == ", "at character 6, not the end"),
        ("in_stock", r"a comparison \(==, .* expected at character 9"),
        ("(a == 1", r"\) expected at character 8"),
        ("1 == 2", "a column or request.NAME on one side of the comparison expected at character 1"),
        ("1 in [1]", "a column or request.NAME on one side"),
        ("1 is null", "a column or request.NAME expected at character 1"),
        ("a in 1", "a list like"),
        ("a in [b]", "a value expected at character 7"),
        ("a in [1 2]", ", or ] expected at character 9"),
        ("request == 1", "a dot and a name"),
        ("request.1 == 1", "says nothing here|a name expected"),
        ("a is nul", "null expected at character 6"),
        ("and == 1", "a column, request.NAME or a value expected at character 1, not 'and'"),
        ("1 < a < 3", "and, or or the end expected at character 7, not '<'"),
        ("a == 1; b", "';' at character 7 says nothing here"),
        ('a == "x', "says nothing here"),
        ("a == 3x", "says nothing here"),
        ("not " * 40 + "a == 1", "nested deeper than 32"),
        ("(" * 40 + "a == 1" + ")" * 40, "nested deeper than 32"),
        ("a == 1 or " * 500 + "a == 1", "characters is above 4,000"),
        ("__import__('os')", "a comparison"),
    ],
)
def test_what_cannot_be_read_names_the_place_and_the_mend(text, message):
    with pytest.raises(InputError, match=message):
        parse(text, "rule 'r'")


@given(st.text(alphabet="ab=<>!()[],.'\"` 01request not in is null and or", max_size=40))
def test_any_text_is_a_tree_or_an_error_of_one_line(text):
    said = ""
    try:
        parse(text, "rule 'r'")
    except InputError as error:
        said = str(error)
    assert said == "" or said.startswith("rule 'r'")
    assert "\n" not in said


def test_operands_know_what_may_be_missing():
    tree = parse("a == 1 and (request.x is null or request.y in b)", "rule 'r'")
    assert operands(tree) == [
        (A, False), (Value(1), False), (Request("x"), True), (Request("y"), False), (Column("b"), False),
    ]  # fmt: skip
