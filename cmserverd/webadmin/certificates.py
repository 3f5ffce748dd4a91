"""The certificate of HTTPS: an operator's own, or one that is made here, and what takes its place while WebAdmin runs.

No browser knows the one that is made here, so an administrator compares its fingerprint, which is in the log, with what
the browser shows. It is kept in the state directory, so that he does so once, and made anew before its end.
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cmserverd.webadmin import private_file

FILE: Final = "certificate.pem"
"""Certificate and key in one file, so that they can never be of two makings."""

LASTS: Final = timedelta(days=397)
"""Some browsers believe no certificate that is valid for longer."""

RENEWED: Final = timedelta(days=60)
"""It is made anew when less than this is left."""

EARLIER: Final = timedelta(days=1)
"""So much before its making it is valid: clocks differ."""

MOST_NAMES: Final = 100


class CertificateFault(Exception):
    """A certificate cannot be used; the text is one line and says what to do."""


def self_made(directory: Path, names: Iterable[str], now: datetime) -> Path:
    """Return the file of a certificate for these names and addresses, one made here. Raises OSError.

    It is the one that is there, if it is good for them at this time (UTC).
    """
    wanted = sorted({name.lower() for name in names})[:MOST_NAMES]
    path = directory / FILE
    if not _is_good(path, wanted, now):
        private_file.replace(path, _make(wanted, now))
    return path


def secured(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return what secures connections by a certificate and its key. Raises CertificateFault."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM")  # of TLS 1.2, what HTTP/2 allows and every browser can
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password="")  # rather than asking at a terminal
    except ssl.SSLError as error:
        reason = error.reason or "they are no PEM files"
        raise CertificateFault(
            f"{certificate} and {key} are no certificate and its key: {reason}; correct [webadmin]"
        ) from None
    except OSError as error:
        raise CertificateFault(
            f"{certificate} or {key} cannot be read: {error.strerror}; correct [webadmin], or let this user read them"
        ) from None
    return context


Files = tuple[Path, Path]
"""Certificate and key, which may be in one file."""


class InUse:
    """The certificate that new connections are shown: `context`. `find` says which files it is in, each time.

    Raises CertificateFault, OSError.
    """

    def __init__(self, find: Callable[[], Files]) -> None:
        self._find = find
        self.files = find()
        self._mark = _mark(self.files)
        self.context = secured(*self.files)

    def renew(self) -> bool:
        """Take up what is in the files by now; tell whether it is another one.

        Raises CertificateFault, OSError; then the one that is in use stays.
        """
        files = self._find()
        mark = _mark(files)  # before they are used: what changes meanwhile is taken up the next time
        if mark == self._mark:
            return False
        self.context = secured(*files)
        self.files, self._mark = files, mark
        return True


def fingerprint(certificate: Path) -> str:
    """Return the SHA-256 fingerprint of the first certificate in a file, as browsers show it. Raises OSError."""
    return x509.load_pem_x509_certificate(certificate.read_bytes()).fingerprint(hashes.SHA256()).hex(":").upper()


def own_names() -> list[str]:
    """Return what this machine is called, by others and by itself."""
    return [socket.gethostname(), "localhost", "127.0.0.1", "::1"]


def _mark(files: Files) -> bytes:
    """Return what is another one when the files have anything else in them; of those that cannot be read, none."""
    try:
        return b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)
    except OSError:
        return b""


def _is_good(path: Path, wanted: list[str], now: datetime) -> bool:
    try:
        data = path.read_bytes()
        there = x509.load_pem_x509_certificate(data)
        key = serialization.load_pem_private_key(data, None)
        names = there.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        there.verify_directly_issued_by(there)
    except (OSError, ValueError, TypeError, x509.ExtensionNotFound, InvalidSignature):
        return False
    if key.public_key() != there.public_key() or set(names) != set(_general(wanted)):
        return False
    return there.not_valid_before_utc <= now <= there.not_valid_after_utc - RENEWED


def _make(names: list[str], now: datetime) -> bytes:
    """Return a key and a certificate that signs itself, for nothing but serving these names."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cmserverd WebAdmin")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + LASTS - EARLIER)
        .add_extension(x509.SubjectAlternativeName(_general(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8
    encoding = serialization.Encoding.PEM
    return key.private_bytes(encoding, form, serialization.NoEncryption()) + made.public_bytes(encoding)


def _general(names: list[str]) -> list[x509.GeneralName]:
    general: list[x509.GeneralName] = []
    for name in names:
        try:
            general.append(x509.IPAddress(ipaddress.ip_address(name.partition("%")[0])))
        except ValueError:
            if name.isascii():
                general.append(x509.DNSName(name))
    return general
