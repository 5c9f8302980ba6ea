"""``/admin/blocklist``: items that no list may hold, from now on."""

from typing import Annotated

from msgspec import Meta, Struct, field

from suisen.serving.blocking import MOST, Lists
from suisen.serving.contract import NoParams
from suisen.serving.endpoints.admin.slots import Wait, control_of, endpoint
from suisen.serving.exchange import Exchange
from suisen.serving.messages import Id, Message
from suisen.serving.problems import Refusal
from suisen.serving.service import Service

Items = Annotated[list[Id], Meta(max_length=10_000)]
AllItems = Annotated[list[Id], Meta(max_length=MOST)]
NOTES = f"Refused though the schema allows it: what leaves more than {MOST:,} items out of lists."


class BlocklistRequest(Message, frozen=True, kw_only=True):
    """``POST /admin/blocklist``: what is not named stays as it is, unless ``replace`` is set."""

    block: Items = field(default_factory=list)
    """Must not be shown."""
    unblock: Items = field(default_factory=list)
    """May be shown again."""
    unavailable: Items = field(default_factory=list)
    """Cannot be had at the moment."""
    available: Items = field(default_factory=list)
    """Can be had again."""
    replace: bool = False
    """Forget what was told before."""
    wait_s: Wait = 10.0


class WholeBlocklist(Message, frozen=True, kw_only=True):
    """``PUT /admin/blocklist``: all of it, in the place of what was told before.  Both lists are named, so that none is
    emptied by a slip.
    """

    blocked: AllItems
    """Must not be shown."""
    unavailable: AllItems
    """Cannot be had at the moment."""
    wait_s: Wait = 10.0


class BlocklistAnswer(Struct, frozen=True):
    """What no list may hold."""

    request_id: str
    blocked: list[str]
    """As this listener was told."""
    unavailable: list[str]
    """As this listener was told."""
    in_force: int
    """Items, those of the watched file with them."""
    unknown: list[str]
    """Those that the version which answers does not know; at most 100 are named."""
    file_error: str
    """Why the watched file is not in force as it stands; "" where it is."""
    kept: bool
    """Whether what was told outlives the server: it is written beside the log, where there is one."""
    pending: list[int]
    """Workers that had not acted yet when the time was over."""


async def blocklist(service: Service, exchange: Exchange, message: NoParams) -> BlocklistAnswer:
    """The items that no list may hold now."""
    return _answer(service, exchange, [])


async def change_blocklist(service: Service, exchange: Exchange, message: BlocklistRequest) -> BlocklistAnswer:
    """Blocks items, and lets others be shown again, in every worker before it answers; lists do not become shorter."""
    control = control_of(service)

    def change(old: Lists) -> Lists:
        before = Lists() if message.replace else old
        blocked = (_texts(before.blocked) | _texts(message.block)) - _texts(message.unblock)
        unavailable = (_texts(before.unavailable) | _texts(message.unavailable)) - _texts(message.available)
        return _checked(blocked, unavailable)

    return _answer(service, exchange, await control.block(change, message.wait_s))


async def replace_blocklist(service: Service, exchange: Exchange, message: WholeBlocklist) -> BlocklistAnswer:
    """Puts these items in the place of those that were told before, in every worker before it answers.

    The items of a watched file stay blocked beside them.  Sent again it changes nothing.
    """
    control = control_of(service)
    whole = _checked(_texts(message.blocked), _texts(message.unavailable))
    return _answer(service, exchange, await control.block(lambda old: whole, message.wait_s))


def _texts(ids: list[str | int]) -> set[str]:
    return set(map(str, ids))


def _checked(blocked: set[str], unavailable: set[str]) -> Lists:
    """The lists.  Refuses more than are taken."""
    if len(blocked) + len(unavailable) > MOST:
        raise Refusal("invalid_value", f"{len(blocked) + len(unavailable):,} items are more than {MOST:,}; block fewer")
    return Lists(sorted(blocked), sorted(unavailable))


def _answer(service: Service, exchange: Exchange, pending: list[int]) -> BlocklistAnswer:
    control = control_of(service)
    blocking = control.blocking
    return BlocklistAnswer(
        exchange.request_id,
        [str(item) for item in blocking.told.blocked],
        [str(item) for item in blocking.told.unavailable],
        len(blocking.items),
        service.loaded().unknown(blocking.items)[:100],
        blocking.error,
        service.settings.log_dir is not None,
        pending,
    )


GET = endpoint("GET", "blocklist", blocklist, NoParams, answers=BlocklistAnswer)
POST = endpoint(
    "POST",
    "blocklist",
    change_blocklist,
    BlocklistRequest,
    answers=BlocklistAnswer,
    example=BlocklistRequest(block=["3"], unavailable=["5"]),
    notes=NOTES,
)
PUT = endpoint(
    "PUT",
    "blocklist",
    replace_blocklist,
    WholeBlocklist,
    answers=BlocklistAnswer,
    example=WholeBlocklist(blocked=["3"], unavailable=["5"]),
    notes=NOTES,
)
