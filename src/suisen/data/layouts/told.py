"""What a layout itself knows of its columns, where the caller says nothing else."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from suisen.data.raw import Raw


def told(raw: Raw, given: Mapping[str, Any], find: str) -> tuple[Raw, dict[str, Any]]:
    """The table without the stand-ins that are not needed, and the options that its layout adds to those ``given``.

    ``find``: the value of an option that leaves a column to be found.
    """
    more: dict[str, Any] = {}
    named = given["user"] not in (None, find)
    for role, column in raw.roles.items():
        if given[role] != find and given[role] is not None:
            continue
        if role == "session" and named and raw.roles.get("user", "") is None:
            continue  # the caller knows the user: no stand-in for it is needed
        if not (role == "weight" and given["label"] is not None):
            more[role] = column
    idle = {column for role, column in raw.roles.items() if role not in more and column not in given.values()}
    kept = raw.frame.drop([column for column in idle if column in raw.frame.columns and raw.context])
    if raw.context and not given["context"]:
        taken = {each for each in given.values() if isinstance(each, str)}
        more["context"] = tuple(name for name in raw.context if name not in taken)
    return replace(raw, frame=kept), more
