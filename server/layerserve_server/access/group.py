"""What the processes of one server have in common."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path

#: Length of a group's secret, in bytes.
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """The processes of a server, which recognize each other by a secret.

    With it a worker forwards the names in a client's certificate, and the main process reads the workers' metrics.
    """

    secret: bytes = field(default_factory=lambda: secrets.token_bytes(SECRET_BYTES))
    #: File with the balances of quotas; None for a single process.
    balances: Path | None = None
    #: Copy of the tokens file as it was last valid, for a process that starts while it isn't; None for a single one.
    last_tokens: Path | None = None

    @classmethod
    def of(cls, folder: Path, secret: bytes | None = None) -> ProcessGroup:
        """Returns the group of processes that share a folder, by default with a new secret."""
        secret = secrets.token_bytes(SECRET_BYTES) if secret is None else secret
        return cls(secret, folder / "balances", folder / "tokens.toml")

    @property
    def authorization(self) -> str:
        """The HTTP header by which a process asks another."""
        return f"Bearer {self.secret.hex()}"
