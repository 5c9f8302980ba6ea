"""The plan: what a TOML file may say, what it may not, and the hash of it."""

import json
from dataclasses import fields

import pytest

from suisen.errors import InputError
from suisen.experiments.plan import Assignment, Guardrail, Metric, Plan, Sequential, load

TOML = """
name = "ranker-may"
hypothesis = "DeepFM behind SASRec raises click-through without costing revenue."
primary = "ctr"
mde = 0.02
start = 2024-05-01
end = 2024-05-15T12:00:00+09:00

[arms]
control = 0.5
treatment = 0.5

[metrics.ctr]
kind = "ctr"
covariate = true

[metrics.revenue]
kind = "value"
winsorize = 0.999

[metrics.sessions]
kind = "sessions"

[metrics.worth]
kind = "ratio"
numerator = "revenue"
denominator = "sessions"

[guardrails.revenue]
margin = 0.01

[assignment]
overrides = {42 = "treatment"}

[assignment.ramp]
2024-05-01 = 0.1
"2024-05-03T12:00:00Z" = 1.0
"""


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "plan.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_plan_is_read_as_written(written):
    plan = load(written(TOML))
    assert plan.name == plan.seed == "ranker-may"
    assert (plan.starts, plan.ends) == (1714521600_000000, 1715742000_000000)
    assert plan.treatments == ("treatment",)
    assert plan.secondary == ("sessions", "worth")
    assert plan.metrics["ctr"] == Metric(kind="ctr", covariate=True)
    assert plan.guardrails == {"revenue": Guardrail(margin=0.01)}
    assert plan.assignment.coverage("2024-05-02") == 0.1
    assert plan.assignment.coverage("2024-04-30") == 0
    assert plan.assignment.coverage() == 1
    assert [name for name, metric in plan.metrics.items() if metric.is_ratio] == ["ctr", "worth"]


def test_a_plan_goes_through_plain_values_and_json(written):
    plan = load(written(TOML))
    again = Plan.of(json.loads(json.dumps(plan.as_dict())))
    assert again == plan
    assert again.fingerprint() == plan.fingerprint()


def test_the_fingerprint_knows_every_field_and_the_order_of_arms(written):
    plan = load(written(TOML))
    other = {
        "name": "x", "hypothesis": "x", "unit": "session", "salt": "x", "control": "treatment", "primary": "sessions",
        "arms": {"treatment": 0.5, "control": 0.5}, "metrics": {**plan.metrics, "more": {"kind": "count"}},
        "guardrails": {}, "mde": 0.5, "scale": "absolute", "alternative": "less", "alpha": 0.1, "power": 0.9,
        "correction": "bh", "start": "2024-04-01", "end": "2024-06-01", "sample": 9, "pre": "7d", "sequential": {},
        "strata": ("country",), "segments": ("device",), "contamination": "first", "srm_threshold": 0.01,
        "assignment": {"holdout": 0.1}, "columns": {"arm": "group"}, "bayes": {"prior_sd": 0.1},
        "equivalence": {next(name for name in plan.metrics if name not in plan.guardrails): {"margin": 0.1}},
    }  # fmt: skip
    assert set(other) == {field.name for field in fields(Plan)}
    prints = {Plan.of({**plan.as_dict(), name: value}).fingerprint() for name, value in other.items()}
    assert len(prints | {plan.fingerprint()}) == len(other) + 1


def test_the_fingerprint_does_not_know_the_order_of_keys(written):
    plan = load(written(TOML)).as_dict()
    assert Plan.of(dict(reversed(plan.items()))).fingerprint() == Plan.of(plan).fingerprint()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("treatment = 0.5\n", "", r"arms = \{'control': 0.5\} is one arm; a comparison needs two or more"),
        ("treatment = 0.5", "treatment = 0.4", "have weights that sum to 0.9; make them sum to 1"),
        ("treatment = 0.5", "treatment = -0.5", "arms.treatment = -0.5 should be greater than 0"),
        ("control = 0.5", "kontrol = 0.5", "control = 'control' is unknown; did you mean 'kontrol'"),
        ('primary = "ctr"', 'primary = "ctx"', "primary = 'ctx' is unknown; did you mean 'ctr'"),
        ("guardrails.revenue", "guardrails.revenu", "guardrails = 'revenu' is unknown; did you mean 'revenue'"),
        ('numerator = "revenue"', 'numerator = "clicks"', "metrics.worth.numerator = 'clicks' is unknown"),
        ('numerator = "revenue"', 'numerator = "ctr"', "metrics.worth.numerator = 'ctr' is unknown; known: revenue"),
        ('numerator = "revenue"', "", r"\[metrics.worth\] Metric: kind = 'ratio' needs numerator; name it"),
        ("mde = 0.02", "alpha = 1.5", "alpha = 1.5 should be less than 1"),
        ("mde = 0.02", "alpha = 0", "alpha = 0 should be greater than 0"),
        ("mde = 0.02", "power = 1.0", "power = 1.0 should be less than 1"),
        ("mde = 0.02", "mde = -1", "mde = -1 should be greater than 0"),
        ("mde = 0.02", "mdee = 1", "Plan parameter = 'mdee' is unknown; did you mean 'mde'"),
        ("start = 2024-05-01", "start = 2024-05-16", "end = .* is not after start = '2024-05-16'; swap them"),
        ("start = 2024-05-01", "start = '7d'", "start = '7d' is no ISO 8601 date or time"),
        (
            'kind = "value"',
            'kind = "vale"',
            r"\[metrics.revenue\] Metric: kind = 'vale' is unknown; did you mean 'value'",
        ),
        ("winsorize = 0.999", "winsorise = 0.9", "Metric parameter = 'winsorise' is unknown; did you mean 'winsorize'"),
        ("winsorize = 0.999", "winsorize = 1.5", "winsorize = 1.5 should be less than 1"),
        ("margin = 0.01", "margin = 0", r"\[guardrails.revenue\] Guardrail: margin = 0 should be greater than 0"),
        ('42 = "treatment"', '42 = "treated"', "assignment.overrides.42 = 'treated' is unknown; did you mean 'treatm"),
        ("2024-05-01 = 0.1", "2024-05-04 = 0.1", "ramp: '2024-05-03T12:00:00Z' is not after '2024-05-04'"),
        ("2024-05-01 = 0.1", "2024-05-01 = 1.1", "less than or equal to 1"),
        ('"2024-05-03T12:00:00Z" = 1.0', "2024-05-03 = 0.05", "ramp falls from 0.1 to 0.05 at '2024-05-03'"),
        ("mde = 0.02", 'pre = "two weeks"', "pre = 'two weeks' is no duration"),
        ("[arms]", "arms = 5\n[armss]", "arms = 5 should be a valid dictionary"),
        ("[metrics.worth]", "[metrics]\nx = 3\n[metrics.worth]", r"metrics.x = 3 is no table; write \[metrics.x\]"),
        ("mde = 0.02", "mde = ", "is no TOML"),
    ],
)
def test_mistakes_are_refused_with_their_place_and_mend(written, old, new, said):
    assert TOML.count(old) == 1
    with pytest.raises(InputError, match=f"plan.toml.*{said}"):
        load(written(TOML.replace(old, new)))


@pytest.mark.parametrize("field", ["name", "arms", "metrics", "primary"])
def test_what_every_plan_needs_is_asked_for(written, field):
    values = load(written(TOML)).as_dict()
    del values[field]
    with pytest.raises(InputError, match=f"the plan has no {field}; write it into the TOML"):
        Plan.of(values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "group"}, r"looks = \[\] should be two or more rising shares of the data that end with 1"),
        ({"kind": "group", "looks": (1,)}, "should be two or more"),
        ({"kind": "group", "looks": (0.5, 0.4, 1)}, "should be two or more rising"),
        ({"kind": "group", "looks": (0.5, 0.9)}, "that end with 1"),
        ({"kind": "group", "looks": (0.5, 1.1)}, "less than or equal to 1"),
        ({"kind": "group", "looks": (0, 1)}, "greater than 0"),
        ({"looks": (0.5, 1)}, "belong to kind = 'group'; an always-valid plan needs none"),
        ({"tune": 0}, "tune = 0 should be greater"),
        ({"kind": "grouped"}, "kind = 'grouped' should be"),
    ],
)
def test_looks_are_refused_where_they_are_no_plan(values, said):
    with pytest.raises(InputError, match=said):
        Sequential(**values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"slots": (0.5, 0.5), "layer": "x"}, r"slots = \[0.5, 0.5\] are empty"),
        ({"slots": (0.0, 0.5)}, "are a part of a layer; name the layer"),
        ({"holdout": 1.0}, "holdout = 1.0 should be less than 1"),
        ({"hash": "md5"}, "hash = 'md5' should be 'suisen-1', 'growthbook-2' or 'growthbook-1'"),
        ({"ramp": {"soon": 1.0}}, "ramp = 'soon' is neither a duration"),
    ],
)
def test_assignments_are_refused_where_they_are_unsound(values, said):
    with pytest.raises(InputError, match=said):
        Assignment(**values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "sql"}, "kind = 'sql' needs expression"),
        ({"kind": "retention", "first_day": 8}, "last_day = 7 is before first_day = 8"),
        ({"kind": "sessions", "gap": "half an hour"}, "gap = 'half an hour' is no duration"),
        ({"kind": "count", "window": "x"}, "window = 'x' is no duration"),
    ],
)
def test_metrics_are_refused_where_they_are_incomplete(values, said):
    with pytest.raises(InputError, match=said):
        Metric(**values)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none.toml does not exist; give the TOML file of a plan"):
        load(tmp_path / "none.toml")


def test_a_table_that_is_none_is_named():
    plan = {"name": "x", "arms": {"control": 0.5, "t": 0.5}, "primary": "m", "metrics": {"m": "ctr"}}
    with pytest.raises(InputError, match=r"metrics.m = 'ctr' is no table; write \[metrics.m\] and its fields below"):
        Plan.of(plan)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"equivalence": {"ctrr": {"margin": 0.1}}}, "equivalence = 'ctrr' is unknown; did you mean 'ctr'"),
        ({"equivalence": {"ctr": {"margin": 0}}}, r"\[equivalence.ctr\] .*margin = 0 should be greater than 0"),
        (
            {"equivalence": {"ctr": {"margin": 0.1}}, "guardrails": {"ctr": {"margin": 0.1}}},
            "'ctr' is in guardrails and in equivalence, which holds on both sides; keep one",
        ),
        (
            {"equivalence": {"ctr": {"margin": 0.1}}, "alternative": "greater"},
            "alternative = 'greater' looks one way, and equivalence.ctr both; use two-sided",
        ),
    ],
)
def test_equivalences_are_refused_where_they_are_unsound(more, said):
    base = {"name": "x", "arms": {"control": 0.5, "t": 0.5}, "primary": "ctr", "metrics": {"ctr": {"kind": "ctr"}}}
    assert Plan.of(base | {"equivalence": {"ctr": {"margin": 0.1}}}).equivalence["ctr"].scale == "relative"
    with pytest.raises(InputError, match=said):
        Plan.of(base | more)
