"""Only one's own bundles: what a signature is of, whose it is, and every way in which it is none."""

from __future__ import annotations

import json
import shutil
import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

import suisen as su
from suisen.errors import BundleError, InputError
from suisen.recommending import bundle, signing
from tests.fitted import fitted


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return fitted("mf").save(tmp_path_factory.mktemp("saved") / "bundle")


@pytest.fixture
def place(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "bundle")


@pytest.fixture
def key(tmp_path):
    signing.make_key(tmp_path / "keys" / "mine")
    return tmp_path / "keys" / "mine"


def public(key):
    return key.with_name(f"{key.name}.pub")


def test_a_signed_bundle_loads_and_keeps_its_version(place, key):
    version = su.load(place).system.version
    name = signing.sign(place, key)
    assert su.load(place, trusted_keys=public(key)).system.version == version
    assert su.load(str(place), str(key.parent)).system.version == version
    assert su.load(place).system.version == version  # who names no keys asks for no signature
    assert json.loads((place / "manifest.sig").read_text())["key"] == name
    assert "manifest.sig" not in bundle.read_manifest(place)["files"]


def test_the_signature_is_of_the_manifests_bytes_by_the_standard(place, key):
    """Another program checks it with the public key alone."""
    import base64

    signing.sign(place, key)
    theirs = serialization.load_pem_public_key(public(key).read_bytes())
    signature = base64.b64decode(json.loads((place / "manifest.sig").read_text())["signature"])
    theirs.verify(signature, (place / "manifest.json").read_bytes())


def test_a_bundle_without_a_signature_is_refused(place, key):
    with pytest.raises(BundleError, match=r"bundle is not signed \(manifest.sig is missing\)"):
        su.load(place, trusted_keys=public(key))


def test_a_manifest_that_was_changed_is_refused(place, key):
    signing.sign(place, key)
    path = place / "manifest.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    said["notes"] = ["mine"]
    path.write_text(json.dumps({**said, "sha256": bundle._digest(said)}), encoding="utf-8")
    su.load(place)  # whole, but not what was signed
    with pytest.raises(BundleError, match=r"manifest.sig is not key [0-9a-f]{16}'s signature of this manifest"):
        su.load(place, trusted_keys=public(key))


def test_a_file_that_was_changed_is_refused(place, key):
    signing.sign(place, key)
    (place / "parity.json").write_text("[]")
    with pytest.raises(BundleError, match=r"parity.json is damaged"):
        su.load(place, trusted_keys=public(key))


def test_keys_are_several_and_go_one_by_one(place, key, tmp_path):
    signing.make_key(tmp_path / "next" / "new")
    new, both = tmp_path / "next" / "new", tmp_path / "both.pem"
    name = signing.sign(place, new)
    with pytest.raises(BundleError, match=f"signed by key {name}, which is not trusted; trusted are [0-9a-f]{{16}}$"):
        su.load(place, trusted_keys=public(key))
    both.write_bytes(public(key).read_bytes() + public(new).read_bytes())
    assert len(signing.trusted(both)) == 2
    su.load(place, trusted_keys=both)
    shutil.copy(public(new), key.parent)
    su.load(place, trusted_keys=key.parent)
    signing.sign(place, key)  # in the place of the older signature
    su.load(place, trusted_keys=public(key))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "manifest.sig is damaged"),
        ("[]", "not an object of algorithm"),
        ('{"algorithm": "ed25519", "key": 3, "signature": ""}', "not an object of algorithm"),
        ('{"algorithm": "none", "key": "", "signature": ""}', "algorithm = 'none' is unknown"),
        ('{"algorithm": "ed25519", "key": "%s", "signature": "§"}', "no base64"),
        ('{"algorithm": "ed25519", "key": "%s", "signature": ""}', "is not key"),
        ('{"algorithm": "ed25519", "key": "%s", "signature": "AAAA"}', "is not key"),
        ('{"algorithm": "ed25519", "key": "a\\nb", "signature": ""}', r"key a\\nb, which is not trusted"),
        ("[" * 100_000, "manifest.sig is damaged"),
    ],
)
def test_a_signature_that_is_none(place, key, content, what):
    (name,) = signing.trusted(public(key))
    (place / "manifest.sig").write_text(content.replace("%s", name), encoding="utf-8")
    with pytest.raises(BundleError, match=what) as raised:
        su.load(place, trusted_keys=public(key))
    assert str(raised.value).isprintable()


def test_a_private_key_is_its_owners_and_is_never_overwritten(key):
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert b"PRIVATE KEY" in key.read_bytes()
    assert b"PRIVATE" not in public(key).read_bytes()
    before = key.read_bytes()
    with pytest.raises(InputError, match="mine is there already"):
        signing.make_key(key)
    key.unlink()
    with pytest.raises(InputError, match=r"mine.pub is there already"):
        signing.make_key(key)
    assert not key.exists()
    assert b"PRIVATE KEY" in before


def test_what_is_no_key_is_named(place, key, tmp_path):
    wrong = tmp_path / "wrong.pem"
    pem, kind = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    wrong.write_bytes(ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(pem, kind))
    for content, what in (
        (wrong.read_bytes(), "holds a .*give Ed25519 keys"),
        (key.read_bytes(), "is no public key"),
        (b"hello", "is no public key"),
        (b"", "is no public key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "is no public key"),
    ):
        wrong.write_bytes(content)
        with pytest.raises(InputError, match=what):
            su.load(place, trusted_keys=wrong)
    with pytest.raises(InputError, match="cannot be read"):
        su.load(place, trusted_keys=tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no key"):
        su.load(place, trusted_keys=tmp_path / "empty")
    with pytest.raises(InputError, match="is no private key"):
        signing.sign(place, public(key))
    locked = ed25519.Ed25519PrivateKey.generate().private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    wrong.write_bytes(locked)
    with pytest.raises(InputError, match="without a password"):
        signing.sign(place, wrong)


def test_without_the_library_the_extra_is_named(place, key, monkeypatch):
    import sys

    signing.sign(place, key)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    with pytest.raises(ImportError, match=r"suisen\[signing\]"):
        signing.check(place, public(key))
