"""``suisen keys``."""

import click

from suisen.serving.keys import SIMPLE, made


@click.group(short_help="Make keys for those who may ask a server.")
def keys() -> None:
    """Keys of a server's callers, for suisen serve --api-keys FILE.

    \b
    suisen keys new shop --scopes read,events
    """  # noqa: D301 - \b keeps the lines for click


@keys.command(short_help="A new key.")
@click.argument("name")
@click.option("--scopes", default=",".join(SIMPLE), help="What it is allowed: read, events, metrics, admin.")
@click.option("--rate", type=float, default=None, help="Most requests per second; any where it is missing.")
@click.option("--burst", type=float, default=None, help="Most requests at once; as many as in a second by default.")
def new(name: str, scopes: str, rate: float | None, burst: float | None) -> None:
    """A new key for NAME.  The key itself goes to standard error, once; its lines for the file, which hold its hash
    alone, to standard output.

    \b
    suisen keys new shop --scopes read,events --rate 200     the key, and its lines; with >> keys.toml they are kept
    suisen serve runs/demo --host 0.0.0.0 --api-keys keys.toml
    """  # noqa: D301 - \b keeps the lines for click
    secret, lines = made(name, [scope.strip() for scope in scopes.split(",")], rate, burst)
    click.echo(lines)
    click.echo(f"the key of {name}, shown this once: {secret}", err=True)
