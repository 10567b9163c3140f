"""What is wrong with PEM files of certificates and keys, in plain words."""

from __future__ import annotations

import ssl
from pathlib import Path

_CERTIFICATE, _KEY = b"-----BEGIN CERTIFICATE-----", b"PRIVATE KEY-----"


def load_pair(context: ssl.SSLContext, chain: Path, key: Path) -> None:
    """Loads a certificate chain and its key into a context. Raises ValueError that names the file, and OSError."""
    certificate, secret = chain.read_bytes(), key.read_bytes()
    if _CERTIFICATE not in certificate:
        raise ValueError(f"certificate {chain}: got {_kind(certificate)}, expected a certificate in PEM form")
    if _KEY not in secret:
        raise ValueError(f"key {key}: got {_kind(secret)}, expected a private key in PEM form")
    try:
        # An encrypted key would ask for its password on the terminal.
        context.load_cert_chain(chain, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(f"certificate {chain} and key {key}: {_reason(error, secret)}") from error


def load_authorities(context: ssl.SSLContext, path: Path) -> None:
    """Loads certificates of authorities into a context. Raises ValueError that names the file, and OSError."""
    content = path.read_bytes()
    if _CERTIFICATE not in content:
        raise ValueError(f"authority {path}: got {_kind(content)}, expected certificates in PEM form")
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ValueError(f"authority {path}: {_reason(error)}") from error


def _kind(content: bytes) -> str:
    if _CERTIFICATE in content:
        return "a certificate"
    return "a private key" if _KEY in content else "neither a certificate nor a key in PEM form"


def _reason(error: Exception, key: bytes = b"") -> object:
    if not isinstance(error, ssl.SSLError):
        return error
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key is of another certificate"
    if b"ENCRYPTED" in key:
        return "the key is encrypted, expected one without a password"
    # OpenSSL has no reason for text that isn't what it is said to be.
    return error.reason or "the PEM text is damaged"
