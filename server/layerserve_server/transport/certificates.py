"""Certificates for TLS: checked as a pair, and read again while the server runs."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from layerserve.calls.certificate_files import load_authorities, load_pair

logger = logging.getLogger(__name__)

#: Names of a client's certificate in the authentication context of grpcio's core.
_NAMES = (b"x509_common_name", b"x509_subject_alternative_name")
#: Seconds without a new handshake before grpcio gets changed certificates. grpcio frees the former ones at once, and a
#: handshake that is about to take them uses freed memory: it fails, or the process crashes.
_QUIET = 0.02


class CertificateError(ValueError):
    """Certificate and key can't be used. The text has the paths and the reason."""


class Certificates:
    """A certificate chain with its key, and the authorities of clients' certificates. Thread-safe."""

    def __init__(
        self,
        chain: Path,
        key: Path,
        client_ca: Path | None = None,
        reread: Callable[[bool], None] = lambda ok: None,
    ) -> None:
        """With `client_ca` clients must present a certificate that it has signed.

        `reread` is called with the success of each attempt to read changed files. Raises CertificateError.
        """
        self._paths = (chain, key) if client_ca is None else (chain, key, client_ca)
        self._reread = reread
        self._stamps = _stamps(self._paths)
        self._contents, self.context = _checked(self._paths)
        #: Set for the next handshake after a change, in any thread.
        self._fresh: Any = None
        #: When the last handshake asked for changed certificates.
        self._fetched = time.monotonic()

    def credentials(self) -> grpc.ServerCredentials:
        """Returns the credentials of a port. Each handshake uses the files that were read last."""
        made: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
            self._configuration(), self._fetch, require_client_authentication=len(self._paths) > 2
        )
        return made

    def refresh(self) -> None:
        """Reads the files again if they have changed. If they don't fit together, those read before stay in use."""
        try:
            stamps = _stamps(self._paths)
            if stamps == self._stamps:
                return
            contents, context = _checked(self._paths)
            # After they were read, so that a pair of which one file is new is tried again with the other.
            self._stamps = stamps
            if contents == self._contents:
                return
            self._contents, self.context = contents, context
            self._fresh = self._configuration()
        except CertificateError as error:
            logger.error("%s; the certificate read before stays in use", error)
            self._reread(False)
        else:
            logger.info("new connections use the changed certificate %s", self._paths[0])
            self._reread(True)

    def _configuration(self) -> Any:
        chain, key, *client_ca = self._contents
        return grpc.ssl_server_certificate_configuration([(key, chain)], client_ca[0] if client_ca else None)

    def _fetch(self) -> Any:
        """Returns what a handshake uses from now on; None for the same as before. grpcio calls it with a lock."""
        fresh, self._fresh = self._fresh, None
        if fresh is not None:
            time.sleep(max(0.0, self._fetched + _QUIET - time.monotonic()))
        self._fetched = time.monotonic()
        return fresh


class RenewedContext(ssl.SSLContext):
    """A context for asyncio's servers. Each handshake uses the files that were read last."""

    certificates: Certificates

    @classmethod
    def of(cls, certificates: Certificates) -> RenewedContext:
        """Makes a context of these certificates."""
        made = cls(ssl.PROTOCOL_TLS_SERVER)
        made.certificates = certificates
        return made

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """Begins a handshake. Called by asyncio."""
        return self.certificates.context.wrap_bio(*arguments, **options)


def names_in(context: Mapping[bytes, Sequence[bytes]]) -> Sequence[str]:
    """Returns the names of a client's certificate in an authentication context of grpcio's core."""
    found = [name for key in _NAMES for name in context.get(key, ())]
    return [name.decode("utf-8", "replace") for name in found if name]


def names_in_certificate(certificate: Mapping[str, Any]) -> list[str]:
    """Returns the names of a certificate, as `ssl.SSLSocket.getpeercert` describes it: the subject's, then others."""
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return names + [value for _, value in certificate.get("subjectAltName", ())]


def _stamps(paths: Sequence[Path]) -> list[tuple[int, int, int]]:
    stamps = []
    for path, what in zip(paths, ("certificate", "key", "authority"), strict=False):
        try:
            found = path.stat()
        except OSError as error:
            raise CertificateError(f"{what} {path}: {error.strerror}") from error
        stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
    return stamps


def _checked(paths: Sequence[Path]) -> tuple[list[bytes], ssl.SSLContext]:
    """Returns the contents of the files, and a context that uses them.

    Raises CertificateError if they don't fit together, or change meanwhile.
    """
    chain, key, *client_ca = paths
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        contents = [path.read_bytes() for path in paths]
        load_pair(context, chain, key)
        for path in client_ca:
            load_authorities(context, path)
            context.verify_mode = ssl.CERT_REQUIRED
        again = [path.read_bytes() for path in paths]
    except OSError as error:
        raise CertificateError(f"{error.filename}: {error.strerror}") from error
    except ValueError as error:
        raise CertificateError(str(error)) from error
    if again != contents:
        raise CertificateError(f"certificate {chain} and key {key}: changed while they were read")
    return contents, context
