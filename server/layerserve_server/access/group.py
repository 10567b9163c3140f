"""What the processes of one server have in common."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path

#: Length of a group's secret, in bytes.
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """The processes of a server, which recognize each other by a secret."""

    secret: bytes = field(default_factory=lambda: secrets.token_bytes(SECRET_BYTES))
    #: File with the balances of quotas; None for a single process.
    balances: Path | None = None

    @property
    def authorization(self) -> str:
        """The HTTP header by which a process asks another."""
        return f"Bearer {self.secret.hex()}"
