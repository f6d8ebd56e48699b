"""The certificate of the API and its private key: what is wrong with the files is said before anybody connects."""

import ssl
import stat
from pathlib import Path


class CertificateError(Exception):
    """The API cannot be served with these files; str() says why and what to do."""


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """For a server: TLS 1.2 and later. Raises CertificateError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    _refuse_open_key(key)
    try:
        certificate.open("rb").close()  # OpenSSL's own error does not say which of the two
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CertificateError(f"{key} is not the private key of {certificate}") from None
        message = f"{certificate} holds no certificate, or {key} no private key, in PEM ({error})"
        raise CertificateError(message) from None
    except OSError as error:
        raise CertificateError(f"{error.filename or certificate} cannot be read: {error.strerror}") from None
    return context


def _refuse_open_key(key: Path) -> None:
    try:
        mode = stat.S_IMODE(key.stat().st_mode)
    except OSError as error:
        raise CertificateError(f"{key} cannot be read: {error.strerror}") from None
    if mode & 0o007:
        raise CertificateError(f"everybody can read the private key {key} (mode {mode:04o}): chmod 600 {key}")


def _no_password() -> str:
    raise CertificateError("the private key is encrypted, and nobody is there to be asked; give one without a password")
