"""Tokens of every kind, and the file that a server reads them from."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

RIGHTS = ("predict", "read", "train", "manage")
#: What an entry of the file has besides its name and digest, by the token.
ENTRIES: Mapping[str, str] = {
    **{right: f'rights = ["{right}"]' for right in RIGHTS},
    "all": f"rights = {list(RIGHTS)}",
    "expired": f"rights = {list(RIGHTS)}\nexpires = 2020-01-01T00:00:00Z",
    "other-models": f"rights = {list(RIGHTS)}\nmodels = ['other-*', 'third']",
}


def entry(token: str, text: str, name: str | None = None) -> str:
    """The lines of the file for a token."""
    digest = sha256(token.encode()).hexdigest()
    return f'[[tokens]]\nname = "{name or token}"\nsha256 = "{digest}"\n{text}\n'


def write_tokens(path: Path, entries: Mapping[str, str] = ENTRIES, more: str = "") -> Path:
    """Writes a file of tokens, in place of an older one at once."""
    text = "\n".join(entry(token, lines) for token, lines in entries.items()) + more
    written = path.with_suffix(".written")
    written.write_text(text)
    return written.replace(path)


def bearer(token: str | None) -> list[tuple[str, str]]:
    """The metadata of a call with a token; none without one."""
    return [] if token is None else [("authorization", f"Bearer {token}")]
