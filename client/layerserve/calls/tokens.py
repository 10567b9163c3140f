"""Bearer tokens of calls: a text, a file that is read again when it changes, or a function.

A token is never part of an error, a log line or a repr.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from layerserve.calls.addresses import is_local
from layerserve.errors import InvalidArgument

#: What a client's `token` may be.
Token = str | os.PathLike[str] | Callable[[], str] | Callable[[], Awaitable[str]]

Metadata = tuple[tuple[str, str], ...]
#: Trailing metadata of a reply.
Tail = dict[str, str | bytes]

#: Time between two checks whether the file of a token has changed, in seconds.
CHECK_SECONDS = 1.0
#: Maximum size of a token, in bytes: gRPC refuses calls with more than 16 KiB of metadata.
MAX_BYTES = 16 * 1024

_log = logging.getLogger("layerserve")


class PlaintextTokenWarning(UserWarning):
    """A token is sent without TLS to another machine, where others on the network may read it."""


class FixedToken:
    """The same token for each call, or none."""

    def __init__(self, text: str = "") -> None:
        self._metadata = _metadata(text, "token") if text.strip() else ()

    def metadata(self) -> Metadata:
        """Returns the metadata of a call."""
        return self._metadata


class TokenFile:
    """The token in a file, such as Kubernetes's projected service account token."""

    def __init__(self, path: os.PathLike[str]) -> None:
        """Reads the file. Raises OSError if it can't be read, and InvalidArgument if it has no token."""
        self._path = Path(path)
        self._state = self._path.stat()
        self._metadata = self._read()
        self._next_check = time.monotonic() + CHECK_SECONDS
        self._failed = False

    def metadata(self) -> Metadata:
        """Returns the metadata of a call. While the file can't be read, the token that it had is used."""
        if time.monotonic() >= self._next_check:
            self._check()
        return self._metadata

    def _check(self) -> None:
        self._next_check = time.monotonic() + CHECK_SECONDS
        try:
            state = self._path.stat()
            if self._failed or _differ(state, self._state):
                self._metadata = self._read()
                self._state, self._failed = state, False
        except (OSError, InvalidArgument) as error:
            if not self._failed:
                _log.warning("%s; the token that was read before is still used", error)
            self._failed = True

    def _read(self) -> Metadata:
        with self._path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        return _metadata(content.decode("latin-1"), f"token file {str(self._path)!r}")


class TokenFunction:
    """The token that a function returns, called for each call."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function

    def metadata(self) -> Metadata:
        """Returns the metadata of a call. Raises what the function raises, and InvalidArgument for other results."""
        text = self._function()
        if inspect.isawaitable(text):
            if inspect.iscoroutine(text):
                text.close()
            raise InvalidArgument("token: got an asyncio function, expected a function; AsyncClient takes both")
        return _metadata(text, "token")

    async def fetch(self) -> Metadata:
        """Like `metadata`, also for an asyncio function."""
        text = self._function()
        return _metadata(await text if inspect.isawaitable(text) else text, "token")


TokenSource = FixedToken | TokenFile | TokenFunction


def token_source(token: Token | None) -> TokenSource:
    """Returns the source of a client's `token`. Raises InvalidArgument if it is invalid, and OSError."""
    if token is None:
        return FixedToken()
    if isinstance(token, str):
        if token.startswith(("/", "./", "../", "~")) and Path(token).expanduser().is_file():
            raise InvalidArgument("token: got the path of a file as text, expected a token; for a file, pass a Path")
        return FixedToken(token)
    if isinstance(token, os.PathLike):
        return TokenFile(token)
    if callable(token):
        return TokenFunction(token)
    raise InvalidArgument(f"token: got {type(token).__name__}, expected text, a Path, or a function")


def warn_if_plaintext(source: TokenSource, address: str, stacklevel: int) -> None:
    """Warns if a token is sent without TLS to another machine. `stacklevel` is that of `warnings.warn`."""
    if (isinstance(source, FixedToken) and not source.metadata()) or is_local(address):
        return
    text = f"the token is sent to {address} without TLS, where others on the network may read it; use TLS"
    warnings.warn(text, PlaintextTokenWarning, stacklevel=stacklevel)


def _metadata(text: Any, source: str) -> Metadata:
    """Returns the metadata for a token. Raises InvalidArgument, without the token, if it can't be sent."""
    if not isinstance(text, str):
        raise InvalidArgument(f"{source}: got {type(text).__name__}, expected text")
    text = text.strip()
    if not text:
        raise InvalidArgument(f"{source}: got no text, expected a token")
    if len(text) > MAX_BYTES:
        raise InvalidArgument(f"{source}: got more than {MAX_BYTES} bytes, expected a token")
    if not re.fullmatch(r"[\x21-\x7e]+", text):
        raise InvalidArgument(
            f"{source}: got {len(text)} characters, some of them spaces, line breaks or not ASCII; expected a token, "
            "without 'Bearer'"
        )
    return (("authorization", f"Bearer {text}"),)


def _differ(state: os.stat_result, other: os.stat_result) -> bool:
    # The file number too: Kubernetes replaces a link to the file's folder.
    return (state.st_mtime_ns, state.st_size, state.st_ino, state.st_dev) != (
        other.st_mtime_ns,
        other.st_size,
        other.st_ino,
        other.st_dev,
    )
