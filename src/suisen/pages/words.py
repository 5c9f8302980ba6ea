"""Numbers and moments as people read them."""

from datetime import datetime

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
SPACE = "\N{NO-BREAK SPACE}"


def share(part: float) -> str:
    """A share in per cent, three significant digits.

    >>> [" ".join(share(part).split()) for part in (0.0630467, 1.0, 0.000123)]  # the space does not break
    ['6.3 %', '100 %', '0.0123 %']
    """
    return f"{float(f'{100 * part:.3g}'):.10g}{SPACE}%"


def day(moment: str, *, time: bool = False) -> str:
    """The day of an ISO 8601 moment, with ``time`` its hour and minute too; other texts stay as they are.

    >>> [" ".join(day(text).split()) for text in ("2026-11-30T07:50:03Z", "2026-11-30 07:50:03 UTC", "soon", "")]
    ['30 Nov 2026', '30 Nov 2026', 'soon', '']
    >>> " ".join(day("2026-11-30T07:50:03Z", time=True).split())
    '30 Nov 2026 07:50'
    """
    try:
        when = datetime.fromisoformat(moment.removesuffix(" UTC"))
    except ValueError:
        return moment
    said = f"{when.day}{SPACE}{MONTHS[when.month - 1]}{SPACE}{when.year}"
    return f"{said}{SPACE}{when:%H:%M}" if time else said


def span(first: str, last: str) -> str:
    """From one moment to another: days, and within a day or two the minutes too.

    >>> " ".join(span("2026-11-29T00:00:00Z", "2026-11-30T07:50:03Z").split())
    '29 Nov 2026 00:00 to 30 Nov 2026 07:50'
    """
    try:
        brief = abs((datetime.fromisoformat(last) - datetime.fromisoformat(first)).days) < 3
    except (ValueError, TypeError):  # no moments, or one of them without a zone
        brief = False
    return f"{day(first, time=brief)} to {day(last, time=brief)}"
