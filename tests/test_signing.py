"""Exported pictures that are signed say who says that an AI made them, and nothing else of them changes."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import imagemill as package
from imagemill.dataset import Dataset
from imagemill.errors import ImagemillError, UsageError
from imagemill.images import decode, embedded_recipe, is_marked
from imagemill.layouts.base import find_layout

from .conftest import Command
from .test_augment import picture, table

c2pa = pytest.importorskip("c2pa", reason="the package `c2pa-python` is not installed")
pytest.importorskip("cryptography", reason="the package `cryptography` is not installed")

from cryptography import x509  # noqa: E402 - only where it is installed
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, ed25519  # noqa: E402

ORIGIN = "http://cv.iptc.org/newscodes/digitalsourcetype/"
SETTINGS = {"version": 1, "verify": {"remote_manifest_fetch": False}, "builder": {"thumbnail": {"enabled": False}}}
Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass
class Authority:
    """Makes certificates."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def leaf(self, name: str = "Ada", key: Key | None = None, email: bool = True, days: int = 30) -> tuple[str, str]:
        """A chain and its key, in PEM."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        purpose = x509.ExtendedKeyUsageOID.EMAIL_PROTECTION if email else x509.ExtendedKeyUsageOID.SERVER_AUTH
        builder = certificate(name, key, self.certificate.subject, days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(usage(digital_signature=True), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        own = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        made = builder.add_extension(own, critical=False).sign(self.key, hashes.SHA256())
        return pem(made) + pem(self.certificate), private(key)


def certificate(name: str, key: Key, issuer: x509.Name | None, days: int = 30) -> x509.CertificateBuilder:
    named = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.COMMON_NAME, name),
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, f"{name}'s laboratory"),
        ]
    )
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(named)
        .issuer_name(issuer or named)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=60))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def usage(**true: bool) -> x509.KeyUsage:
    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: true.get(name, False) for name in names})


def pem(made: x509.Certificate) -> str:
    return made.public_bytes(serialization.Encoding.PEM).decode()


def private(key: Key, password: bytes | None = None, traditional: bool = False) -> str:
    written = serialization.PrivateFormat.TraditionalOpenSSL if traditional else serialization.PrivateFormat.PKCS8
    protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, written, protection).decode()


@pytest.fixture(scope="module")
def authority() -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = certificate("Root", key, None)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(usage(key_cert_sign=True, crl_sign=True), critical=True)
    return Authority(key, builder.sign(key, hashes.SHA256()))


@pytest.fixture
def signing(authority: Authority) -> dict[str, Any]:
    """The parameters of an export that is signed."""
    return written(*authority.leaf())


def written(chain: str, key: str) -> dict[str, Any]:
    Path("keys").mkdir(exist_ok=True)
    Path("keys/chain.pem").write_text(chain)
    Path("keys/secret-place.pem").write_text(key)
    return {"sign_certificate": "keys/chain.pem", "sign_key": "keys/secret-place.pem"}


def generated(count: int = 3, **parameters: Any) -> Dataset:
    rows = [{"prompt": f"picture {n}"} for n in range(count)]
    return package.generate(rows, "out", model="fake", seed=1, width=24, height=16, **parameters)


def exported(layout: str = "imagefolder", split: str = "train") -> list[tuple[dict[str, Any], dict[str, bytes]]]:
    found = find_layout(layout, {}).read(Path("export"), split)
    return [(loaded.record, dict(loaded.files)) for loaded in found]


def told(data: bytes) -> dict[str, Any]:
    """What a picture's credentials say, which hold."""
    kind = f"image/{str(Image.open(io.BytesIO(data)).format).lower()}"
    with c2pa.Context.from_dict(SETTINGS) as context, c2pa.Reader(kind, io.BytesIO(data), context=context) as reader:
        assert reader.get_validation_state() == "Valid"
        failures = reader.get_validation_results()["activeManifest"]["failure"]
        assert {failure["code"] for failure in failures} == {"signingCredential.untrusted"}
        found: dict[str, Any] = reader.get_active_manifest()
        return {**found, "manifests": len(json.loads(reader.json())["manifests"])}


def actions(data: bytes) -> list[dict[str, Any]]:
    (assertion,) = (each for each in told(data)["assertions"] if each["label"].startswith("c2pa.actions"))
    found: list[dict[str, Any]] = assertion["data"]["actions"]
    return found


def is_signed(data: bytes) -> bool:
    with c2pa.Context.from_dict(SETTINGS) as context:
        return c2pa.Reader.try_create("", io.BytesIO(data), context=context) is not None


# what is signed


@pytest.mark.parametrize("layout", ["imagefolder", "parquet", "webdataset"])
@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_a_made_picture_is_signed_and_nothing_else_of_it_changes(
    layout: str, image_format: str, signing: dict[str, Any]
) -> None:
    dataset = generated(image_format=image_format)
    package.export(dataset, layout, "export", **signing)
    for before, (record, files) in zip(dataset, exported(layout), strict=True):
        data = files[record["file_name"]]
        assert record == {**before, "sha256": hashlib.sha256(data).hexdigest()}
        original = Path("out/images/part-000001", before["file_name"]).read_bytes()
        assert (decode(data) == decode(original)).all()
        now, then = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(original))
        assert embedded_recipe(now) == embedded_recipe(then) is not None
        assert is_marked(now)
        assert {name: now.info[name] for name in then.info} == then.info
        assert len(data) - len(original) < 5_000, "no thumbnail"
        assert told(data)["claim_generator_info"][0]["name"] == "imagemill"
        assert told(data)["signature_info"]["common_name"] == "Ada"
        assert actions(data) == [
            {
                "action": "c2pa.created",
                "digitalSourceType": f"{ORIGIN}trainedAlgorithmicMedia",
                "softwareAgent": {"name": "fake", "version": before["model_revision"]},
            }
        ]
    assert package.verify(dataset) == [], "the dataset stays as it is"


def test_signatures_come_last(signing: dict[str, Any]) -> None:
    generated()
    package.export("out", "imagefolder", "export", image_format="webp", quality=80, max_side=12, **signing)
    for record, files in exported():
        data = files[record["file_name"]]
        assert Image.open(io.BytesIO(data)).size == (12, 8)
        assert actions(data)[0]["action"] == "c2pa.created"


def test_an_edit_names_what_it_was_made_from(signing: dict[str, Any]) -> None:
    picture("a.png"), picture("b.png", (24, 16), 1)
    rows = [{"images": ["a.png", "b.png"], "instruction": "edit"}]
    package.edit(table(rows), "out", model="fake", seed=1, strength=0.5)
    package.export("out", "imagefolder", "export", **signing)
    ((record, files),) = exported()
    data = files[record["file_name"]]
    opened, edited = actions(data)
    assert (opened["action"], edited["action"]) == ("c2pa.opened", "c2pa.edited")
    assert edited["digitalSourceType"] == f"{ORIGIN}compositeWithTrainedAlgorithmicMedia"
    ingredients = told(data)["ingredients"]
    assert [(each["relationship"], each["title"]) for each in ingredients] == [
        ("parentOf", record["input_images_file_names"][0]),
        ("inputTo", record["input_images_file_names"][1]),
    ]
    assert opened["parameters"]["ingredients"][0]["url"].endswith(ingredients[0]["label"])
    for name in record["input_images_file_names"]:
        assert not is_signed(files[name]), "it was not made here"


def test_a_variation_is_signed_and_its_original_is_not(signing: dict[str, Any]) -> None:
    picture("a.png")
    package.augment(table([{"image": "a.png", "caption": "a picture"}]), "out", model="fake", seed=1, strength=0.5)
    package.export("out", "parquet", "export", **signing)
    (original, kept), (made, files) = exported("parquet")
    assert original["original"]
    assert kept[original["file_name"]] == Path("out/images/part-000001", original["file_name"]).read_bytes()
    assert [action["action"] for action in actions(files[made["file_name"]])] == ["c2pa.opened", "c2pa.edited"]
    (ingredient,) = told(files[made["file_name"]])["ingredients"]
    assert ingredient["title"] == f"{made['source_sha256'][0]}.png"


def test_what_was_only_taken_in_is_not_signed(signing: dict[str, Any]) -> None:
    picture("a.png")
    dataset = package.caption(table([{"image": "a.png"}]), "out", model="fake")
    with pytest.raises(UsageError, match="there is nothing to sign"):
        package.export(dataset, "imagefolder", "export", **signing)
    assert not Path("export").exists()


def test_credentials_that_a_picture_came_with_stay(authority: Authority, signing: dict[str, Any]) -> None:
    generated(2)
    for record in (dataset := Dataset("out")):
        path = Path("out/images/part-000001", record["file_name"])
        path.write_bytes(signed_by(authority.leaf("Server"), path.read_bytes()))
    rehash(dataset)
    package.export("out", "imagefolder", "export", **signing)
    for record, files in exported():
        found = told(files[record["file_name"]])
        assert (found["manifests"], found["signature_info"]["common_name"]) == (2, "Ada")
        assert [action["action"] for action in actions(files[record["file_name"]])] == ["c2pa.opened"]
        assert found["ingredients"][0]["relationship"] == "parentOf"
    shrunk = Path("export").rename("as-it-was")
    package.export("out", "imagefolder", "export", max_side=12, **signing)
    for record, files in exported():
        assert told(files[record["file_name"]])["manifests"] == 2
        assert [each["action"] for each in actions(files[record["file_name"]])] == ["c2pa.opened", "c2pa.transcoded"]
    assert shrunk.is_dir()


def test_credentials_that_cannot_be_read_are_not_overwritten(authority: Authority, signing: dict[str, Any]) -> None:
    generated(1)
    (path,) = Path("out/images/part-000001").glob("*.png")
    data = signed_by(authority.leaf("Server"), path.read_bytes())
    place = data.index(b"jumb") + 4
    path.write_bytes(with_checksums(data[:place] + b"x" * 20 + data[place + 20 :]))
    rehash(Dataset("out"))
    with pytest.raises(ImagemillError, match=r"prompt_0_image_0\.png` cannot be signed"):
        package.export("out", "imagefolder", "export", **signing)
    assert not Path("export").exists()


def test_nothing_is_asked_of_the_network(signing: dict[str, Any], authority: Authority) -> None:
    generated(1)
    (path,) = Path("out/images/part-000001").glob("*.png")
    with counted() as (address, asked):
        path.write_bytes(signed_by(authority.leaf("Server"), path.read_bytes(), f"{address}/claim.c2pa"))
        rehash(Dataset("out"))
        package.export("out", "imagefolder", "export", **signing)
    assert asked == []
    ((record, files),) = exported()
    assert f"{address}/claim.c2pa".encode() in files[record["file_name"]]


def signed_by(leaf: tuple[str, str], data: bytes, address: str = "") -> bytes:
    """A picture as a server signs it; with an address, its credentials are only there."""
    info = c2pa.C2paSignerInfo("es256", leaf[0].encode(), leaf[1].encode(), None)
    with c2pa.Context.from_dict(SETTINGS) as context, c2pa.Builder({"assertions": []}, context=context) as builder:
        builder.set_intent(c2pa.C2paBuilderIntent.CREATE, c2pa.C2paDigitalSourceType.TRAINED_ALGORITHMIC_MEDIA)
        if address:
            builder.set_no_embed()
            builder.set_remote_url(address)
        signed = io.BytesIO()
        builder.sign(c2pa.Signer.from_info(info), "image/png", io.BytesIO(data), signed)
    return signed.getvalue()


def rehash(dataset: Dataset) -> None:
    """Let the records say what the files are."""
    for metadata in dataset.folder.glob("images/*/metadata.jsonl"):
        lines = [json.loads(line) for line in metadata.read_text().splitlines()]
        for line in lines:
            line["sha256"] = hashlib.sha256((metadata.parent / line["file_name"]).read_bytes()).hexdigest()
        metadata.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def with_checksums(data: bytes) -> bytes:
    """A PNG whose checksums are right."""
    import struct
    import zlib

    parts, place = [data[:8]], 8
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        body = data[place + 4 : place + 8 + length]
        parts.append(struct.pack(">I", length) + body + struct.pack(">I", zlib.crc32(body)))
        place += length + 12
    return b"".join(parts)


@contextmanager
def counted() -> Iterator[tuple[str, list[str]]]:
    """A server that writes down what it is asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# who has signed


def test_an_export_says_who_has_signed_it_and_nothing_of_the_key(
    signing: dict[str, Any], authority: Authority, imagemill: Command
) -> None:
    generated()
    flags = ("--sign-certificate", signing["sign_certificate"], "--sign-key", signing["sign_key"])
    ran = imagemill("export", "out", "parquet", "-o", "export", *flags, "--json")
    assert ran.code == 0
    chain = Path(signing["sign_certificate"]).read_text()
    sha256 = hashlib.sha256(x509.load_pem_x509_certificate(chain.encode()).public_bytes(DER)).hexdigest()
    told = json.loads(Path("export/.imagemill-export.json").read_text())["parameters"]
    assert told["sign_certificate"] == sha256
    assert told["signed_by"] == "Ada, Ada's laboratory"
    card = Path("export/README.md").read_text()
    assert f"signed by Ada, Ada's laboratory (certificate SHA-256 `{sha256}`" in card
    secret = Path(signing["sign_key"]).read_text().splitlines()[1].encode()
    for path in Path("export").rglob("*"):
        if path.is_file():
            assert b"secret-place" not in path.read_bytes()
            assert secret not in path.read_bytes()
    assert "secret-place" not in ran.out + ran.err
    again = imagemill("export", "out", "parquet", "-o", "export", *flags)
    assert "exported before" in again.err
    other = written(*authority.leaf("Eve"))
    with pytest.raises(UsageError, match=r"was exported with other parameters: .*`signed_by` Ada"):
        package.export("out", "parquet", "export", **other)


DER = serialization.Encoding.DER


def test_other_kinds_of_keys_can_sign(authority: Authority) -> None:
    generated(1)
    signing = written(*authority.leaf(key=ed25519.Ed25519PrivateKey.generate()))
    package.export("out", "imagefolder", "export", **signing, sign_algorithm="ed25519")
    ((record, files),) = exported()
    assert told(files[record["file_name"]])["signature_info"]["alg"] == "Ed25519"


# what cannot sign


def a_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


WRONG: dict[str, tuple[Callable[[Authority], tuple[str, str]], str]] = {
    "another key": (lambda a: (a.leaf()[0], a.leaf()[1]), "nothing can be signed with"),
    "protected": (lambda a: (a.leaf()[0], private(a_key(), b"x")), "is protected by a passphrase"),
    "not PKCS 8": (lambda a: (a.leaf()[0], private(a_key(), traditional=True)), "is no PKCS #8 file"),
    "no key": (lambda a: (a.leaf()[0], "hello"), "holds no private key"),
    "no certificate": (lambda a: ("hello", a.leaf()[1]), "holds no certificate"),
    "no text": (lambda a: (a.leaf()[0] + "é", a.leaf()[1]), "it is no PEM file"),
    "for servers": (lambda a: a.leaf(email=False), "nothing can be signed with"),
    "expired": (lambda a: a.leaf(days=-1), "nothing can be signed with"),
    "other kind": (
        lambda a: a.leaf(key=ed25519.Ed25519PrivateKey.generate()),
        "nothing can be signed with",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_sign_is_told_before_anything_is_written(wrong: str, authority: Authority) -> None:
    generated(1)
    make, message = WRONG[wrong]
    signing = written(*make(authority))
    secret = Path(signing["sign_key"]).read_text().splitlines()[-2:][0]
    with pytest.raises(UsageError, match=message) as raised:
        package.export("out", "imagefolder", "export", **signing)
    assert secret not in str(raised.value) or wrong == "no key"
    assert {path.name for path in Path().iterdir()} == {"out", "keys"}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"sign_certificate": "keys/chain.pem"}, "need each other"),
        ({"sign_key": "keys/secret-place.pem"}, "need each other"),
        ({"sign_algorithm": "es256"}, "has no effect"),
        (
            {"sign_certificate": "absent.pem", "sign_key": "keys/secret-place.pem"},
            "`absent.pem` cannot be read: No",
        ),
        ({"sign_certificate": "keys/chain.pem", "sign_key": "keys"}, "`keys` cannot be read: Is a directory"),
    ],
)
def test_certificate_and_key_belong_together(parameters: dict[str, Any], message: str, signing: dict[str, Any]) -> None:
    generated(1)
    with pytest.raises(UsageError, match=message):
        package.export("out", "imagefolder", "export", **parameters)


def test_without_the_package_it_is_said_how_to_install_it(
    signing: dict[str, Any], monkeypatch: pytest.MonkeyPatch, imagemill: Command
) -> None:
    generated(1)
    monkeypatch.setitem(sys.modules, "c2pa", None)
    flags = ("--sign-certificate", signing["sign_certificate"], "--sign-key", signing["sign_key"])
    ran = imagemill("export", "out", "parquet", "-o", "export", *flags)
    assert (ran.code, "pip install 'imagemill[c2pa]'" in ran.err) == (2, True)
