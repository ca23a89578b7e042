"""Content credentials of exported pictures: who says that an AI made them, signed (https://spec.c2pa.org)."""

from __future__ import annotations

import hashlib
import io
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from imagemill.dataset.sources import Sources
from imagemill.environment import package_version
from imagemill.errors import ImagemillError, MissingExtra, UsageError
from imagemill.images import ImageFormat, embedded_recipe, encode, format_of, open_image
from imagemill.layouts.base import Picture
from imagemill.records import Record

if TYPE_CHECKING:
    from imagemill.dataset.folder import Dataset

Algorithm = Literal["es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519"]

_ORIGIN = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_SETTINGS = {
    "version": 1,
    # A thumbnail would be larger than many a picture.
    "builder": {"thumbnail": {"enabled": False}},
    # Nothing is asked of the network, whatever a picture points to.
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_TAKING_IN = {"import", "merge"}
"""Operators whose records may name a model that others have used."""


@dataclass(slots=True)
class Signing:
    """A certificate with its key, ready to sign."""

    algorithm: str
    certificate_sha256: str
    subject: str
    """Whom the certificate names."""
    _context: Any
    _signer: Any
    _taken_in: bool = False
    signed: int = field(default=0, init=False)
    """Pictures so far; exact only where one thread signs."""

    def __str__(self) -> str:
        return f"{self.subject} (certificate {self.certificate_sha256[:16]}…)"

    @property
    def parameters(self) -> dict[str, str]:
        """What may be told of it."""
        return {
            "signed_by": self.subject,
            "sign_certificate": self.certificate_sha256,
            "sign_algorithm": self.algorithm,
        }

    def of(self, dataset: Dataset) -> Signing:
        """The same for the pictures of a dataset."""
        return replace(self, _taken_in=dataset.job["steps"][0]["operator"] in _TAKING_IN)

    def sign(self, picture: Picture, before: bytes, after: bytes) -> bytes:
        """Sign the file of a picture as it is to be exported, `after`; `before` is the same in the dataset.

        A picture that was not made comes back as it is. Credentials that a file came with stay, as those of what it
        was before. Raises ImagemillError for credentials that cannot be read.
        """
        if not self._is_made(picture.record, before):
            return after
        agent = {"name": picture.record["model"], "version": picture.record["model_revision"]}
        by = {"softwareAgent": {name: text for name, text in agent.items() if text}}
        composite = f"{_ORIGIN}compositeWithTrainedAlgorithmicMedia"
        opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": ["0"]}}
        try:
            if self._has_credentials(before):
                actions: list[dict[str, Any]] = [opened]
                actions += [] if after is before else [{"action": "c2pa.transcoded"}]
                data = self._signed(after, actions, {picture.record["file_name"]: before})
            elif sources := dict(_sources(picture)):
                edited = {"action": "c2pa.edited", "digitalSourceType": composite, **by}
                if others := [str(number) for number in range(1, len(sources))]:
                    edited["parameters"] = {"ingredientIds": others}
                data = self._signed(after, [opened, edited], sources)
            else:
                kind = composite if "source_sha256" in picture.record else f"{_ORIGIN}trainedAlgorithmicMedia"
                data = self._signed(after, [{"action": "c2pa.created", "digitalSourceType": kind, **by}], {})
            self._check(data)
        except self._error as error:
            raise ImagemillError(f"`{picture.path}` cannot be signed: {error}", "leave it out with `where`") from None
        self.signed += 1
        return data

    def _is_made(self, record: Record, data: bytes) -> bool:
        if not record["model"] or record.get("original"):
            return False
        return not self._taken_in or embedded_recipe(open_image(data)) is not None

    def _has_credentials(self, data: bytes) -> bool:
        """Whether a file says where it comes from, or where that can be read."""
        import c2pa

        try:
            reader = c2pa.Reader.try_create(_kind(data), io.BytesIO(data), context=self._context)
        except c2pa.C2paError:
            return True
        if reader is None:
            return False
        reader.close()
        return True

    def _signed(self, data: bytes, actions: list[dict[str, Any]], ingredients: Mapping[str, bytes]) -> bytes:
        """A file with a claim; the first of the ingredients is what it was before. Raises C2paError."""
        import c2pa

        claim = {
            "claim_generator_info": [{"name": "imagemill", "version": package_version("imagemill")}],
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
        }
        with c2pa.Builder(claim, context=self._context) as builder:
            for number, (name, ingredient) in enumerate(ingredients.items()):
                relation = "inputTo" if number else "parentOf"
                told = {"title": name, "relationship": relation, "label": str(number)}
                builder.add_ingredient(told, _kind(ingredient), io.BytesIO(ingredient))
            signed = io.BytesIO()
            builder.sign(self._signer, _kind(data), io.BytesIO(data), signed)
        return signed.getvalue()

    def _check(self, data: bytes) -> dict[str, Any]:
        """Read a signature back and tell of whom it is; raises C2paError where it does not hold."""
        import c2pa

        with c2pa.Reader(_kind(data), io.BytesIO(data), context=self._context) as reader:
            if reader.get_validation_state() not in {"Valid", "Trusted"}:
                failures = (reader.get_validation_results() or {}).get("activeManifest", {}).get("failure", [])
                raise c2pa.C2paError(", ".join(failure["code"] for failure in failures) or "it is not valid")
            manifest = reader.get_active_manifest() or {}
        return dict(manifest["signature_info"])

    @property
    def _error(self) -> type[Exception]:
        import c2pa

        return c2pa.C2paError  # type: ignore[no-any-return]


def find_signing(certificate: str, key: str, algorithm: Algorithm) -> Signing:
    """Read a certificate chain and its key from PEM files, and try them.

    Raises UsageError, MissingExtra where the package is absent; no message holds anything of the key.
    """
    try:
        import c2pa
    except ImportError:
        raise MissingExtra("c2pa-python", "imagemill[c2pa]") from None
    import numpy as np

    chain, secret = _read("sign_certificate", certificate), _read("sign_key", key)
    try:
        # Of the first one, which is the signer's.
        der = ssl.PEM_cert_to_DER_cert(chain[chain.index(_BEGIN) : chain.index(_END) + len(_END)])
    except ValueError:
        raise UsageError(
            f"export: `sign_certificate`: `{certificate}` holds no certificate in PEM", "give the chain, signer first"
        ) from None
    _check_key(key, secret)
    try:
        signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm, chain.encode(), secret.encode(), None))
        context = c2pa.Context.from_dict(_SETTINGS)
        unknown = Signing(algorithm, hashlib.sha256(der).hexdigest(), "", context, signer)
        created = {"action": "c2pa.created", "digitalSourceType": f"{_ORIGIN}trainedAlgorithmicMedia"}
        told = unknown._check(unknown._signed(encode(np.zeros((1, 1, 3), np.uint8), "png", None, False), [created], {}))
    except c2pa.C2paError as error:
        raise UsageError(
            f"export: nothing can be signed with `{certificate}` and `{key}`: {error}",
            "they must belong together and to `sign_algorithm`, and the certificate must be one for C2PA",
        ) from None
    names = dict.fromkeys(str(told[name]) for name in ("common_name", "issuer") if told.get(name))
    return replace(unknown, subject=", ".join(names))


def _read(parameter: str, path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="ascii")
    except OSError as error:
        problem = str(error.strerror)
    except ValueError:
        problem = "it is no PEM file"
    raise UsageError(f"export: `{parameter}`: `{path}` cannot be read: {problem}", "name a PEM file") from None


def _check_key(path: str, text: str) -> None:
    """Raise UsageError for a key that is protected, or written in another way."""
    if "ENCRYPTED" in text:
        problem, command = "is protected by a passphrase", "openssl pkey -in KEY -out PLAIN"
    elif "-----BEGIN PRIVATE KEY-----" in text:
        return
    elif "PRIVATE KEY-----" in text:
        problem, command = "is no PKCS #8 file", "openssl pkcs8 -topk8 -nocrypt -in KEY -out PKCS8"
    else:
        raise UsageError(f"export: `sign_key`: `{path}` holds no private key in PEM", "name the key's own file")
    raise UsageError(f"export: `sign_key`: `{path}` {problem}", f"`{command}` writes one that can be used")


def _sources(picture: Picture) -> Iterator[tuple[str, bytes]]:
    """The pictures that one was made from, as far as the dataset has them, by name."""
    record = picture.record
    beside = record.get("input_images_file_names") or [record.get("input_image_file_name")]
    if any(beside):
        yield from ((name, picture.read(name)) for name in beside if name)
        return
    kept = Sources(picture.path.parents[2])
    for path in map(kept.path, record.get("source_sha256", ())):
        if path.is_file():
            yield path.name, path.read_bytes()


def _kind(data: bytes) -> str:
    found: ImageFormat = format_of(data)
    return f"image/{found}"
