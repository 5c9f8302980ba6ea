"""Users in Redis: two scripts, so that a value is changed or read in one step and one round trip, whatever it is."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from suisen.errors import InputError, missing_extra
from suisen.serving.stores.users import Asked, Found, Sent, StoreError
from suisen.serving.stores.wire import VALUE_BYTES, new_stamp

CONNECT_S = 1.0
"""Most seconds of a probe: a connection, with TLS, and one answer."""
PASSWORD = "SUISEN_USERS_PASSWORD"  # noqa: S105 - the name of a variable
"""The environment's password, where the URL has none: command lines are seen by everybody on the machine."""
APPEND = """
local ttl, most, stamp = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local out = {}
for i, key in ipairs(KEYS) do
  local size = redis.pcall('STRLEN', key)
  local old = ''
  if type(size) == 'number' and size <= 2 * most then
    local value = redis.call('GET', key) or ''
    if string.sub(value, 17, 17) == '\\n' and string.sub(value, -1) == '\\n' then old = string.sub(value, 18) end
  end
  local whole, held, new, flags = '\\n' .. old, {}, {}, {}
  local _, many = string.gsub(ARGV[3 + i], '\\n', '\\n')
  if many > 16 then
    for line in string.gmatch(old, '[^\\n]+') do held[string.match(line, ',"[^"]*"%]$') or line] = true end
  end
  for line in string.gmatch(ARGV[3 + i], '[^\\n]+') do
    local id = string.match(line, ',"[^"]*"%]$')
    local needle = id or line
    local there = held[needle]
    if not there and many <= 16 then
      there = string.find(whole, (id and '' or '\\n') .. needle .. '\\n', 1, true)
    end
    if not there then new[#new + 1] = line end
    held[needle] = true
    flags[#flags + 1] = there and '0' or '1'
  end
  if #new > 0 then old = old .. table.concat(new, '\\n') .. '\\n' end
  if #old > most - 17 then
    old = string.sub(old, 17 - most)
    old = string.sub(old, string.find(old, '\\n', 1, true) + 1)
  end
  if #new > 0 then redis.call('SET', key, stamp .. '\\n' .. old, 'EX', ttl)
  else redis.call('EXPIRE', key, ttl) end
  out[i] = table.concat(flags)
end
return out
"""
READ = """
local most = tonumber(ARGV[1])
local out = {}
for i, key in ipairs(KEYS) do
  local size, stamp = redis.pcall('STRLEN', key), ARGV[1 + i]
  if type(size) ~= 'number' or size > most then out[i] = 1
  elseif stamp ~= '' and redis.call('GETRANGE', key, 0, #stamp - 1) == stamp then out[i] = 0
  else out[i] = redis.call('GET', key) end
end
return out
"""


class RedisUsers:
    """A ``UserStore`` over one or two connections."""

    def __init__(self, url: str, ttl_s: float) -> None:
        """``url``: redis://host:port/db, rediss:// for TLS, or unix://path; ``ttl_s``: seconds after which what nobody
        wrote again is gone.

        Connects to nobody yet.  Raises InputError for another URL and MissingExtra.
        """
        self._ttl_s = max(1, round(ttl_s))
        self.address = bare(url)
        """Where it is, without user and password."""
        try:
            import redis.asyncio as client
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError:
            raise missing_extra("redis", "redis") from None
        options: dict[str, Any] = {"socket_timeout": CONNECT_S, "socket_connect_timeout": CONNECT_S, "protocol": 2}
        if os.environ.get(PASSWORD):
            options["password"] = os.environ[PASSWORD]
        try:
            self._client = client.Redis.from_url(url, retry=Retry(NoBackoff(), 0), max_connections=2, **options)
            self._client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        except (ValueError, TypeError):
            mend = "write redis://host:port/db, rediss://host:port/db (TLS) or unix:///path"
            raise InputError(f"users = {self.address!r} is no address of a Redis; {mend}") from None

    async def exchange(self, sent: Sequence[Sent], asked: Sequence[Asked], rows: Mapping[bytes, bytes]) -> Found:
        """See ``UserStore``; rows that are not taken are lost without a word, for they can be computed."""
        pipe = self._client.pipeline(transaction=False)
        if sent:
            lines = [b"\n".join(one.lines) + b"\n" for one in sent]
            keys = [one.key for one in sent]
            pipe.eval(APPEND, len(sent), *keys, self._ttl_s, VALUE_BYTES, new_stamp(), *lines)
        if asked:
            keys, stamps = [one.key for one in asked], [one.stamp for one in asked]
            pipe.eval(READ, len(asked), *keys, VALUE_BYTES, *stamps)
        for key, value in rows.items():
            pipe.set(key, value, ex=self._ttl_s)
        try:
            replies = await pipe.execute(raise_on_error=False)
        except Exception as error:  # whatever the library or the network thinks of
            raise _failed(error) from None
        new = _checked(replies[0], len(sent)) if sent else []
        values = _checked(replies[bool(sent)], len(asked)) if asked else []
        if values is None:
            raise _failed(replies[bool(sent)])
        return Found(new, values)

    async def ping(self) -> None:
        """See ``UserStore``."""
        try:
            await self._client.execute_command("PING")  # type: ignore[no-untyped-call]
        except Exception as error:
            raise _failed(error) from None

    async def drop(self) -> None:
        """See ``UserStore``."""
        try:
            await self._client.connection_pool.disconnect(inuse_connections=True)
        except Exception as error:
            raise _failed(error) from None


def bare(url: str) -> str:
    """A URL without user, password and options, for messages."""
    scheme, colon, rest = url.partition("://")
    return f"{scheme}{colon}{rest.rpartition('@')[2].partition('?')[0]}" if colon else "…"


def _checked(reply: Any, many: int) -> Any:
    """A reply of the length that it must have, else None."""
    return reply if isinstance(reply, list) and len(reply) == many else None


def _failed(error: object) -> StoreError:
    """The kind of an error alone: its text may hold what nobody should read."""
    return StoreError(type(error).__name__)
