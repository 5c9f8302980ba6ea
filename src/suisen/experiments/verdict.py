"""The first line of a report: what the experiment says, in words that do not claim more than it does."""

from suisen.experiments.blocks import CONTAMINATED, contamination
from suisen.experiments.looks import ordinal
from suisen.experiments.result import Equality, Estimated, Guard, Result, State, margin_of, told
from suisen.experiments.standing import Look

EQUAL: dict[State, str] = {"holds": "equal", "fails": "NOT EQUAL", "undecided": "not shown to be equal"}
"""State of an equality → what is said of it."""

REPEATED = 0.01
"""Share of the events that were left out as repeated above which the verdict says so."""


def verdict(result: Result) -> str:
    """One sentence.  What blocks it is said in its place; a primary metric without variance gives none."""
    if result.blocked is not None:
        return str(result.blocked)
    if result.mode == "A/A":
        return _same(result)
    primary = result.of("primary")
    if all(each.decision == "no verdict" for each in primary):
        none = f"No verdict: {primary[0].warnings[0].split(';')[0]}"
        return "; ".join(part for part in (none, _guardrails(result).replace("guardrails hold", "")) if part)
    said = [_effect(each, result) for each in primary]
    parts = [
        "; ".join(said) + _together(primary),
        _guardrails(result),
        _equalities(result),
        _sample(result),
        _waiting(result),
        _repeated(result),
        result.ratio.doubt,
        contamination(share) if (share := result.contamination) > CONTAMINATED else "",
        result.late,
        _warned(primary),
    ]
    if result.changes:
        parts.append(
            f"{len(result.changes)} field{'s' * (len(result.changes) > 1)} of the plan changed after the start"
        )
    return "; ".join(part for part in parts if part)


def _effect(each: Estimated, result: Result) -> str:
    equal = each.equality
    if equal is None or each.decision == "no verdict":
        return _shown(each, result)
    arm, within = _begun(each.arm), f"within {margin_of(equal)}"
    if equal.state == "holds" and not each.significant:
        return f"{arm} equals {result.plan.control} in {each.metric} {within}: {_interval(equal, result)}"
    return f"{_shown(each, result)}, {EQUAL[equal.state]} {within}"


def _together(primary: tuple[Estimated, ...]) -> str:
    """Of the intervals of several arms: that they hold together, and where one contradicts its p."""
    joint = primary[0].joint
    if joint is None:
        return ""
    said = f" ({100 * joint.level:.4g} % intervals, which hold for all {joint.arms} arms together)"
    apart = [each.arm for each in primary if each.significant and each.joint is not None and each.joint.reaches]
    if not apart:
        return said
    rule, whose = primary[0].correction.split()[0], " and ".join(apart)
    reach = f"those of {whose} reach" if len(apart) > 1 else f"that of {whose} reaches"
    return f"{said}; {reach} no effect, though {rule}'s p shows one"


def _begun(arm: str) -> str:
    """A word opens the sentence with a capital; a code like gate_40 stays as it is."""
    return arm[:1].upper() + arm[1:] if arm.isalpha() else arm


def _interval(equal: Equality, result: Result) -> str:
    """An effect with the interval that decides about equality, and its level, which is not that of the others."""
    return f"{equal.effect.shown(equal.scale)} at {100 * (1 - 2 * result.plan.alpha):g} %"


def _shown(each: Estimated, result: Result) -> str:
    arm = _begun(each.arm)
    if each.decision == "no verdict":
        return f"{arm}: {each.warnings[0].split(';')[0]}"
    if each.ranks is not None:
        found = each.ranks if each.joint is None else each.joint.effect
        side = result.plan.alternative
        ends = {
            "two-sided": f" [{100 * found.low:.1f}, {100 * found.high:.1f}]",
            "greater": f", at least {100 * found.low:.1f} %",
            "less": f", at most {100 * found.high:.1f} %",
        }
        pairs = f"{100 * each.ranks.superiority:.1f} % of pairs{ends[side]}"
        shown = "is" if each.significant else "is not shown to be"
        below = each.ranks.superiority < 0.5 if side == "two-sided" else side == "less"
        way = "below" if below else "above"
        return f"{arm} {shown} {way} {result.plan.control} in {each.metric}: above in {pairs} (ranks, not means)"
    if each.significant:
        sign = 1 if each.decision == "raises" else -1
        return f"{arm} {each.decision} {each.metric} by {_size(each, sign)}"
    found_range = each.claimed
    shown = found_range.shown(each.scale)
    mde = result.plan.mde
    ruled = ""
    if mde is not None and each.scale == result.plan.scale and -mde < found_range.low and found_range.high < mde:
        size = f"{100 * mde:g} %" if each.scale == "relative" else f"{mde:g}"
        ruled = f", and one of {size} is ruled out"
    return f"No effect of {each.arm} on {each.metric} is shown: {shown}{ruled}"


def _size(each: Estimated, sign: int) -> str:
    """The effect's size in its own direction: ``3.1 % [1.2, 5.0]``."""
    found = each.claimed
    low, high = sorted((sign * found.low, sign * found.high))
    return told(sign * found.value, low, high, each.scale, sign="-")


def _guardrails(result: Result) -> str:
    guarded = [each for each in result.estimates if each.guard is not None]
    if not guarded:
        return ""
    bad = [f"guardrail {each.metric}{_of(each, result)} {_state(each)}" for each in guarded if _open(each.guard)]
    return "; ".join(bad) or "guardrails hold"


def _equalities(result: Result) -> str:
    """Of metrics that are not primary: each claim of equality, whatever became of it."""
    return "; ".join(
        f"{each.metric}{_of(each, result)} {EQUAL[each.equality.state]} within {margin_of(each.equality)} "
        f"({_interval(each.equality, result)})"
        for each in result.estimates
        if each.equality is not None and each.role != "primary"
    )


def _open(guard: Guard | None) -> bool:
    return guard is not None and guard.state != "holds"


def _of(each: Estimated, result: Result) -> str:
    return f" of {each.arm}" if len(result.plan.treatments) > 1 else ""


def _state(each: Estimated) -> str:
    guard = each.guard
    if guard is None:
        return ""
    effect = guard.effect or each.on(guard.scale)
    word = "FAILS" if guard.state == "fails" else "is undecided"
    return f"{word} ({effect.shown(guard.scale)}, margin {margin_of(guard)})"


def _sample(result: Result) -> str:
    look = result.look
    again = f", {ordinal(look.order)} look," if look.order > 1 else ""
    if look.early:
        seen = f"{100 * (look.fraction or 0):.0f} %"
        return (
            f"LOOKED AT EARLY ({seen} of what was planned){again} without a sequential plan: significance is overstated"
        )
    if look.kind == "group":
        return f"{look.named}, sample ratio as planned"
    if look.kind == "always-valid":
        return f"always-valid, sample ratio as planned; {_size_seen(look)}"
    peeked = f"; {again[2:-1].upper()} without a sequential plan: significance is overstated" if again else ""
    if look.fraction is None:
        return f"sample ratio as planned, but neither sample nor end was{peeked}"
    less = "" if look.reached else " at the end; power is less than planned"
    return f"sample ratio as planned; {_size_seen(look)}{less}{peeked}"


def _size_seen(look: Look) -> str:
    """How much was seen of how much; a ratio that is as planned says nothing about it."""
    if look.sample is not None:
        return f"{look.units:,} of {look.sample:,} planned units ({100 * look.units / look.sample:.3g} %)"
    if look.fraction is None:
        return "neither sample nor end was planned"
    return "planned time reached" if look.reached else f"{100 * look.fraction:.3g} % of the planned time"


def _waiting(result: Result) -> str:
    """Promises of the plan about metrics that nothing can be said of yet."""
    known = {each.metric for each in result.estimates}
    names = [name for name in (*result.plan.guardrails, *result.plan.equivalence) if name not in known]
    return f"{', '.join(names)} CANNOT BE JUDGED yet" if names else ""


def _repeated(result: Result) -> str:
    if result.repeated <= REPEATED * result.events:
        return ""
    return f"{100 * result.repeated / result.events:.2g} % of the events were left out as repeated"


def _warned(primary: tuple[Estimated, ...]) -> str:
    said = {warning.split(":")[0] for each in primary for warning in each.warnings if ":" in warning}
    return f"warning: {', '.join(sorted(said))}" if said else ""


def _same(result: Result) -> str:
    """Of an A/A experiment: whether arms that are alike were found to be."""
    tested = [each for each in result.estimates if each.decision != "no verdict"]
    apart = [each for each in tested if each.significant]
    if apart:
        first = min(apart, key=lambda each: each.corrected)
        return (
            f"A/A: {first.arm} differs from {result.plan.control} in {first.metric} (corrected p = "
            f"{first.corrected:.2g}); assignment, logging or the test is broken"
        )
    least = min((each.corrected for each in tested), default=1.0)
    return f"A/A: no difference in {len(tested)} tests (least corrected p = {least:.2g}); sample ratio as planned"
