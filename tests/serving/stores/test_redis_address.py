from __future__ import annotations

import pytest

from suisen.errors import InputError
from suisen.serving.stores.redis import RedisUsers, bare


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:pa@ss?word/x@host:6379/1?ssl=1", "redis://host:6379/1"),
        ("redis://user:word@host/0", "redis://host/0"),
        ("rediss://host:6380/0?password=word", "rediss://host:6380/0"),
        ("unix://user:word@/run/redis.sock", "unix:///run/redis.sock"),
        ("word", "…"),
    ],
)
def test_an_address_is_shown_without_what_is_secret(url, shown):
    assert bare(url) == shown


@pytest.mark.parametrize(
    "url", ["word", "http://:word@host/0", "redis://:word@host:port/0", "redis://:word@h/0?nonsense=word", ""]
)
def test_another_address_is_refused_without_telling_it(url):
    with pytest.raises(InputError, match="users = ") as refused:
        RedisUsers(url, 60.0)
    assert "word" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_tls_and_databases_reach_the_library():
    one = RedisUsers("rediss://user:word@host:6380/3?ssl_cert_reqs=none", 60.0)
    pool = one._client.connection_pool
    assert pool.connection_class.__name__ == "SSLConnection"
    assert (pool.connection_kwargs["host"], pool.connection_kwargs["port"], pool.connection_kwargs["db"]) == (
        "host",
        6380,
        3,
    )
    assert pool.connection_kwargs["password"] == "word"
