"""``suisen bundle``: who made a bundle, and whether it is whole."""

from pathlib import Path

import click

from suisen.recommending import signing
from suisen.recommending.place import find

KEY = click.Path(path_type=Path)


@click.group(short_help="Sign bundles, and check whose they are and that they are whole.")
def bundle() -> None:
    """Sign bundles, and check whose they are and that they are whole.

    \b
    suisen bundle keygen keys/release          the private key, and keys/release.pub
    suisen bundle sign runs/demo --key keys/release
    suisen bundle verify runs/demo --trusted-keys keys/release.pub
    suisen serve runs/demo --trusted-keys keys/release.pub
    """  # noqa: D301 - \b keeps the lines for click


@bundle.command(short_help="A new key to sign with.")
@click.argument("key", type=KEY)
def keygen(key: Path) -> None:
    """Writes a new Ed25519 key: the private part into KEY, for its owner alone, the public one into KEY.pub.

    \b
    suisen bundle keygen keys/release
    """  # noqa: D301 - \b keeps the lines for click
    public, name = signing.make_key(key)
    click.echo(f"key {name}: {key} signs, {public} is for --trusted-keys")


@bundle.command(short_help="Sign a bundle.")
@click.argument("target", metavar="RUN_OR_BUNDLE", type=KEY)
@click.option("--key", type=KEY, required=True, help="The private key, of suisen bundle keygen.")
def sign(target: Path, key: Path) -> None:
    """Signs a bundle, once its files are found to be whole; an older signature is replaced.

    \b
    suisen bundle sign runs/demo --key keys/release
    """  # noqa: D301 - \b keeps the lines for click
    from suisen.recommending.bundle import read_manifest

    place = find(target)
    read_manifest(place)
    click.echo(f"signed by key {signing.sign(place, key)}: {place / signing.SIGNATURE}")


@bundle.command(short_help="Check the files of a bundle, and its signature.")
@click.argument("target", metavar="RUN_OR_BUNDLE", type=KEY)
@click.option("--trusted-keys", type=KEY, help="A public key, or a folder of them: one of them must have signed it.")
def verify(target: Path, trusted_keys: Path | None) -> None:
    """Checks that every file is what the manifest says, and who signed it; nothing is loaded.

    \b
    suisen bundle verify runs/demo
    suisen bundle verify runs/demo --trusted-keys keys/release.pub
    """  # noqa: D301 - \b keeps the lines for click
    from suisen.recommending.bundle import read_manifest

    place = find(target)
    whose = "" if trusted_keys is None else f", signed by key {signing.check(place, trusted_keys)}"
    files = read_manifest(place)["files"]
    click.echo(f"{place}: {len(files)} files are whole{whose}")
