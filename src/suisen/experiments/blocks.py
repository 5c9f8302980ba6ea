"""What blocks a verdict: decided once, and then nothing that is shown of the result judges anything."""

from collections.abc import Sequence
from dataclasses import replace

from suisen.experiments.result import Estimated
from suisen.experiments.srm import Part, Ratio
from suisen.experiments.standing import Block, Look

CONTAMINATED = 0.01
"""Share of the units in two arms above which the assignment itself is doubted, and an effect may be made by them."""
SPOILT = 0.05
"""Share of the units in two arms above which there is no verdict at all."""
BROKEN = "assignment, logging or filtering is broken"


def block_of(
    ratio: Ratio, parts: Sequence[Part], contaminated: float, look: Look, primary: Sequence[Estimated]
) -> Block | None:
    """The first thing that forbids a verdict; None: nothing does.

    ``parts``: segments and days whose ratio does not hold; ``contaminated``: share of the units in two arms.
    """
    if not ratio.holds or parts:
        return _mismatch(ratio, parts)
    if contaminated > CONTAMINATED and (found := _spoilt(contaminated, primary)):
        return Block("contamination", found, "mend the assignment, and start again with units that saw neither arm")
    if look.barred:
        return Block("no new look", f"no new look: {look.barred}", "that look's verdict stays; plan a new experiment")
    if look.kind == "group" and not look.number:
        todo = "plan a sample, or start and end" if look.fraction is None else "wait for it: nothing was spent"
        return Block("too early", look.said, todo)
    return None


def _mismatch(ratio: Ratio, parts: Sequence[Part]) -> Block:
    todo = "find where units of one arm are lost, mend it, and analyze again"
    if ratio.holds:
        said = f"sample ratio mismatch in {parts[0]} < {ratio.threshold:g}, though not in all units together; {BROKEN}"
        return Block("sample ratio", said, todo)
    counts = " : ".join(f"{n:,}" for n in ratio.counts.values())
    said = f"sample ratio mismatch ({counts} units, p = {ratio.p:.2g} < {ratio.threshold:g}); {BROKEN}"
    if not parts:
        return Block("sample ratio", said, todo)
    rest = ": without it the ratio is as planned" if parts[0].alone else ""
    return Block("sample ratio", said, f"{todo}; look first at {parts[0]}{rest}")


def _spoilt(share: float, primary: Sequence[Estimated]) -> str:
    """Why so many units in two arms leave no verdict; empty: they leave one.

    Were the units that are missing in one arm twice as active as those missing in the other, that alone would make an
    effect as large as their share.
    """
    seen = contamination(share)
    if share > SPOILT:
        return f"{seen}, and more than {100 * SPOILT:g} % leave nothing to compare"
    small = [each for each in primary if each.significant and abs(each.relative.value) <= share]
    if not small:
        return ""
    return f"{seen}, which alone may make an effect of {100 * abs(small[0].relative.value):.2g} %"


def contamination(share: float) -> str:
    """In words."""
    return f"contamination: {100 * share:.2g} % of the units were seen in more than one arm"


def unjudged(each: Estimated) -> Estimated:
    """The estimate without a decision, for a result that is blocked."""
    guard, equality = each.guard, each.equality
    return replace(
        each, judged=False, guard=guard and replace(guard, state="not judged"),
        equality=equality and replace(equality, state="not judged"),
    )  # fmt: skip
