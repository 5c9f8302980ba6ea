"""What forbids a verdict names the part to blame, the first one first."""

import pytest

from suisen.experiments.blocks import block_of
from suisen.experiments.srm import Part, sample_ratio
from suisen.experiments.standing import Look

ANDROID = Part("platform", "android", {"control": 800, "treatment": 500}, 1e-6, alone=True)
MONDAY = Part("day", "2024-05-06", {"control": 300, "treatment": 200}, 1e-4, alone=False)
LOOK = Look("fixed", None, "")


@pytest.mark.parametrize(("first", "rest"), [(ANDROID, ": without it the ratio is as planned"), (MONDAY, "")])
def test_the_first_part_is_looked_at_first(first, rest):
    ratio = sample_ratio({"control": 5300, "treatment": 4700}, {"control": 0.5, "treatment": 0.5})
    second = MONDAY if first is ANDROID else ANDROID
    said = str(block_of(ratio, (first, second), 0.0, LOOK, ()))
    assert said.endswith(f"look first at {first}{rest}")
    assert second.value not in said
    whole = sample_ratio({"control": 5000, "treatment": 5000}, {"control": 0.5, "treatment": 0.5})
    assert f"sample ratio mismatch in {first} < 0.001, though not in all units together" in str(
        block_of(whole, (first, second), 0.0, LOOK, ())
    )
