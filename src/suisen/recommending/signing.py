"""Signatures of bundles: Ed25519 over the bytes of ``manifest.json``, in ``manifest.sig`` beside it.

The manifest holds the SHA-256 of every file, so that one signature is of all.  It is no entry of the manifest's files,
and the version of a bundle does not change with it.  A key is named by the first 16 hexadecimal digits of the SHA-256
of its 32 public bytes.  The library is the extra ``signing``.
"""

import base64
import binascii
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suisen.arguments import shown
from suisen.errors import BundleError, InputError, missing_extra
from suisen.files import write_text
from suisen.recommending.manifest import checked, decoded
from suisen.recommending.place import MANIFEST

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE = "manifest.sig"
ALGORITHM = "ed25519"
END = b"-----END PUBLIC KEY-----"
MOST_BYTES = 1 << 20
"""Of a file of keys."""


# -- keys --------------------------------------------------------------------------------------------------------------


def make_key(path: Path) -> tuple[Path, str]:
    """Writes a new private key (PEM, PKCS 8, for its owner's eyes alone) and the public one beside it, ``PATH.pub``.

    Returns the public one's path and the key's name.  Raises InputError where either file is there already.
    """
    ed25519, pem = _ed25519(), _serialization()
    key, public = ed25519.Ed25519PrivateKey.generate(), path.with_name(f"{path.name}.pub")
    for file in (path, public):
        if file.exists():
            raise InputError(f"{file} is there already, and keys are not overwritten; give another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    secret = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    _write_new(path, secret, 0o600)
    told = key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    _write_new(public, told, 0o644)
    return public, name_of(key.public_key())


def _write_new(path: Path, content: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)


def name_of(key: "Ed25519PublicKey") -> str:
    """Names a public key in signatures and messages."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def trusted(place: Path) -> dict[str, "Ed25519PublicKey"]:
    """Name → public key of a file with one or several (PEM), or of all ``.pub`` and ``.pem`` files of a folder.

    Raises InputError where there is none, and for what is no public Ed25519 key.
    """
    inside = sorted(place.iterdir()) if place.is_dir() else []
    files = [file for file in inside if file.suffix in (".pub", ".pem")] if place.is_dir() else [place]
    keys = {name_of(key): key for file in files for key in _public(file)}
    if not keys:
        raise InputError(f"trusted_keys = {place} holds no key; give a file, or a folder of .pub files")
    return keys


def _public(file: Path) -> list["Ed25519PublicKey"]:
    parts = _content(file, "trusted_keys").split(END)[:-1]
    if not parts:
        raise InputError(f"trusted_keys: {file} is no public key in PEM; suisen bundle keygen writes KEY.pub")
    try:
        keys = [_serialization().load_pem_public_key(part.strip() + b"\n" + END + b"\n") for part in parts]
    except (ValueError, TypeError) as error:
        raise InputError(f"trusted_keys: {file} is no public key in PEM ({error})") from None
    except _unsupported() as error:
        raise InputError(f"trusted_keys: {file} is no public key that is known here ({error})") from None
    for key in keys:
        if not isinstance(key, _ed25519().Ed25519PublicKey):
            raise InputError(f"trusted_keys: {file} holds a {type(key).__name__}; give Ed25519 keys")
    return keys


def _private(file: Path) -> "Ed25519PrivateKey":
    content = _content(file, "key")
    try:
        key = _serialization().load_pem_private_key(content, None)
    except (ValueError, TypeError) as error:
        raise InputError(f"key: {file} is no private key in PEM without a password ({error})") from None
    except _unsupported() as error:
        raise InputError(f"key: {file} is no private key that is known here ({error})") from None
    if not isinstance(key, _ed25519().Ed25519PrivateKey):
        raise InputError(f"key: {file} holds a {type(key).__name__}; give an Ed25519 key of suisen bundle keygen")
    private: Ed25519PrivateKey = key
    return private


def _content(file: Path, field: str) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{field} = {file} cannot be read ({error.strerror})") from None
    if len(content) > MOST_BYTES:
        raise InputError(f"{field} = {file} is no file of keys: it has more than {MOST_BYTES} bytes")
    return content


# -- signatures --------------------------------------------------------------------------------------------------------


def sign(place: Path, key: Path) -> str:
    """Signs the bundle in ``place``, in the place of an older signature; returns the key's name."""
    private = _private(key)
    content = _manifest(place)
    checked(content, place / MANIFEST)
    name = name_of(private.public_key())
    signature = base64.b64encode(private.sign(content)).decode()
    said = {"algorithm": ALGORITHM, "key": name, "signature": signature}
    write_text(place / SIGNATURE, json.dumps(said, indent=1) + "\n")
    return name


def check(place: Path, trusted_keys: Path) -> str:
    """The name of the trusted key that signed the bundle in ``place``.  Raises BundleError where none did."""
    keys, path = trusted(trusted_keys), place / SIGNATURE
    try:
        content = path.read_bytes()
    except OSError:
        raise BundleError(f"{place} is not signed ({SIGNATURE} is missing); suisen bundle sign makes it") from None
    name, signature = _fields(decoded(content, path), path)
    if name not in keys:
        known = ", ".join(sorted(keys))
        raise BundleError(f"{path}: the bundle was signed by key {name}, which is not trusted; trusted are {known}")
    try:
        keys[name].verify(signature, _manifest(place))
    except _invalid():
        raise BundleError(f"{path} is not key {name}'s signature of this manifest; copy the bundle again") from None
    return name


def _fields(said: Any, path: Path) -> tuple[str, bytes]:
    """The key's name and the signature."""
    fields = said if isinstance(said, dict) else {}
    if set(fields) != {"algorithm", "key", "signature"} or not all(isinstance(one, str) for one in fields.values()):
        raise BundleError(
            f"{path} is damaged: it is not an object of algorithm, key and signature; sign the bundle again"
        )
    if fields["algorithm"] != ALGORITHM:
        raise BundleError(f"{path}: algorithm = {shown(fields['algorithm'])} is unknown; known: {ALGORITHM}")
    try:
        return shown(fields["key"])[1:-1], base64.b64decode(fields["signature"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise BundleError(f"{path} is damaged: signature is no base64 ({error}); sign the bundle again") from None


def _manifest(place: Path) -> bytes:
    try:
        return (place / MANIFEST).read_bytes()
    except OSError as error:
        raise BundleError(f"{place / MANIFEST} cannot be read ({error.strerror}); copy the bundle again") from None


# -- the library -------------------------------------------------------------------------------------------------------


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise missing_extra("cryptography", "signing") from None
    return ed25519


def _serialization() -> Any:
    _ed25519()
    from cryptography.hazmat.primitives import serialization

    return serialization


def _invalid() -> type[Exception]:
    from cryptography.exceptions import InvalidSignature

    return InvalidSignature


def _unsupported() -> type[Exception]:
    from cryptography.exceptions import UnsupportedAlgorithm

    return UnsupportedAlgorithm
