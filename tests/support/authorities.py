"""Certificate authorities, and files of servers' and clients' certificates."""

from __future__ import annotations

import os
from pathlib import Path

import grpc
import trustme


class Authority:
    """A certificate authority with the files of a server in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.chain, self.key, self.root = (folder / name for name in ("server.pem", "server-key.pem", "ca.pem"))
        self.issue()

    @property
    def settings(self) -> dict[str, Path]:
        """Settings of a server that asks for client certificates."""
        return {"tls_certificate": self.chain, "tls_key": self.key, "tls_client_ca": self.root}

    def issue(self, *, half: bool = False) -> None:
        """Writes a new certificate of the server, each file at once; with `half` all but the key."""
        made = self.ca.issue_cert("localhost", "127.0.0.1", key_type=trustme.KeyType.ECDSA)
        replace(self.chain, b"".join(blob.bytes() for blob in made.cert_chain_pems))
        replace(self.root, self.ca.cert_pem.bytes())
        if not half:
            replace(self.key, made.private_key_pem.bytes())

    def issue_client(self, name: str, *alternatives: str) -> trustme.LeafCert:
        """Returns a client's certificate of this common name."""
        # cryptography 51 refuses a certificate with an empty list of alternative names, which trustme would make.
        others = alternatives or ("client.invalid",)
        return self.ca.issue_cert(*others, common_name=name, key_type=trustme.KeyType.ECDSA)

    def client(self, name: str | None = None, *alternatives: str) -> grpc.ChannelCredentials:
        """Credentials of a client with a certificate of this common name; without one for None."""
        root = self.ca.cert_pem.bytes()
        if name is None:
            return grpc.ssl_channel_credentials(root)
        made = self.issue_client(name, *alternatives)
        chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
        return grpc.ssl_channel_credentials(root, made.private_key_pem.bytes(), chain)


def replace(path: Path, content: bytes) -> None:
    """Writes a file at once."""
    written = path.with_suffix(".written")
    written.write_bytes(content)
    os.replace(written, path)
