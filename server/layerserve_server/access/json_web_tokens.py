"""JSON Web Tokens (OpenID Connect): keys from a file or an address, claims -> callers."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
import urllib.request
import weakref
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from layerserve_server.access.caller import Caller
from layerserve_server.access.quota import Quotas
from layerserve_server.access.reserved import NONE, Reserved
from layerserve_server.access.rights import RIGHTS, Right
from layerserve_server.access.tokens_file import MAX_NAME, Jwt, TokensFileError, may_have_keys
from layerserve_server.errors import TokenExpiredError, UnauthenticatedError, UnavailableError

logger = logging.getLogger(__name__)

#: Timeout for fetching the keys, in seconds, and their maximum size in bytes.
FETCH_SECONDS = 10.0
MAX_KEYS_BYTES = 1 << 20
#: Minimum time between two fetches, in seconds: anyone may send tokens with unknown keys.
MIN_FETCH_SECONDS = 10.0
#: Half of a surrogate pair, which JSON can have in a text, and no message can.
SURROGATE = re.compile("[\ud800-\udfff]")
#: Beginnings of the algorithms by type of public key; "oct" would be a shared secret. A curve has one algorithm.
PUBLIC = {"RSA": ("RS", "PS"), "EC": ("ES",), "OKP": ("EdDSA",)}
CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}


class RefusedForNowError(UnauthenticatedError):
    """The token may be valid later: its key isn't known yet, or its time hasn't come."""


class Verifier:
    """Checks tokens with the keys that were read last. Reads no file and no address when it checks one."""

    def __init__(
        self,
        settings: Jwt,
        quotas: Quotas,
        reread: Callable[[bool], None] = lambda ok: None,
        reserved: Reserved = NONE,
    ) -> None:
        """`reread` is called with the success of each attempt to read the keys. `reserved` is that of the callers.

        Raises TokensFileError if the package is missing, or if a file of keys can't be read.
        """
        try:
            import jwt
        except ImportError as error:
            raise TokensFileError("jwt: requires PyJWT: pip install 'PyJWT[crypto]'") from error
        self._jwt = jwt
        self.settings = settings
        self._quotas = quotas
        self._reread = reread
        self._reserved = reserved
        #: Keys by id, or an empty text, and by each algorithm that they may be used with.
        self._keys: dict[str, dict[str, Any]] | None = None
        #: Replaced when other keys were read: a token that was refused before may be valid now.
        self.keys_read: object = object()
        #: What the set had for each id.
        self._entries: dict[str, Mapping[str, Any]] = {}
        #: State of the file of keys that was read last, and why that of now can't be read.
        self._stamp: tuple[int, int, int] | None = None
        self._problem = ""
        #: The callers of tokens, as long as a stream or cache has them.
        self._callers: weakref.WeakSet[Caller] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        if not settings.remote:
            try:
                self._read_file()
            except (OSError, ValueError) as error:
                raise TokensFileError(f"jwt.keys: {settings.keys}: {error}") from error

    def start(self) -> None:
        """Starts to fetch the keys from their address, now and then again every `refresh_seconds`."""
        if self.settings.remote and self._thread is None:
            self._thread = threading.Thread(target=self._fetch_always, name="token keys", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stops to fetch the keys. A fetch in progress isn't awaited."""
        self._stopping = True
        self._wanted.set()

    def end_callers(self, reason: str, keys: Collection[str] | None = None) -> None:
        """Ends the streams of callers whose tokens have these keys, by default of all. Tokens are checked anew."""
        with self._lock:
            callers = [caller for caller in self._callers if keys is None or caller.source in keys]
        for caller in callers:
            caller.end(UnauthenticatedError, reason)

    def refresh(self) -> None:
        """Reads a file of keys again if it has changed. If it is invalid, the keys read before stay."""
        if self.settings.remote:
            return
        try:
            self._read_file()
        except (OSError, ValueError) as error:
            # Once while it lasts.
            if str(error) != self._problem:
                self._problem = str(error)
                self._failed(error)

    def caller(self, token: str) -> Caller:
        """Returns the caller of a token.

        Raises UnauthenticatedError if it isn't valid, RefusedForNowError if that may change, and UnavailableError if no
        keys have been read yet.
        """
        jwt, settings = self._jwt, self.settings
        try:
            id, key = self._key(token)
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=list(settings.algorithms),
                issuer=settings.issuer,
                audience=settings.audience,
                leeway=settings.leeway_seconds,
                options={"require": ["exp", "iss", "aud"]},
            )
            expires = float(claims["exp"]) + settings.leeway_seconds
        except jwt.ExpiredSignatureError as error:
            raise TokenExpiredError("authorization: the token has expired") from error
        except jwt.ImmatureSignatureError as error:
            raise RefusedForNowError("authorization: the token isn't valid yet") from error
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            # Its text would help to guess.
            raise UnauthenticatedError("authorization: the token isn't valid on this server") from error
        return self._caller(claims, expires, id)

    def _key(self, token: str) -> tuple[str, Any]:
        """Returns the key that a token names, with its id."""
        keys = self._keys
        if keys is None:
            raise UnavailableError("the keys that tokens are checked with haven't been read yet")
        header = self._jwt.get_unverified_header(token)
        id = str(header.get("kid", ""))
        if "kid" not in header and len(keys) == 1:
            (id,) = keys
        found = keys.get(id)
        if found is None:
            self._wanted.set()
            raise RefusedForNowError("authorization: the token isn't valid on this server")
        key = found.get(str(header.get("alg")))
        if key is None:
            raise UnauthenticatedError("authorization: the token isn't valid on this server")
        return id, key

    def _caller(self, claims: Mapping[str, Any], expires: float, key: str) -> Caller:
        settings = self.settings
        name = claims.get(settings.name_claim)
        if not isinstance(name, str) or not name or len(name) > MAX_NAME or SURROGATE.search(name):
            raise UnauthenticatedError(f"authorization: the token has no claim '{settings.name_claim}' with a name")
        granted: set[Right] = set()
        for value in _texts(_claim(claims, settings.rights_claim)):
            if settings.roles is not None:
                granted.update(settings.roles.get(value, ()))
            elif value in RIGHTS:
                granted.add(value)
        models = settings.models
        if settings.models_claim is not None:
            models = tuple(_texts(_claim(claims, settings.models_claim)))
        quota = self._quotas.get(
            name,
            settings.rows_per_second,
            1.0,
            settings.max_runs,
            space=settings.issuer,
            max_dataset_bytes=settings.max_dataset_bytes,
        )
        caller = Caller(name, granted, models, quota=quota, expires=expires, source=key, reserved=self._reserved)
        with self._lock:
            self._callers.add(caller)
        return caller

    def _read_file(self) -> None:
        path = Path(self.settings.keys)
        found = path.stat()
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if stamp != self._stamp:
            self._take(path.read_bytes())
            # After it was read: after a passing fault it is read again at the next look.
            self._stamp, self._problem = stamp, ""

    def _take(self, data: bytes) -> None:
        """Takes a key set. Raises ValueError if it has no usable key."""
        try:
            entries = json.loads(data)["keys"]
            usable = [one for one in entries if one.get("kty") in PUBLIC and one.get("use", "sig") == "sig"]
            keys = {str(entry.get("kid", "")): self._by_algorithm(entry) for entry in usable}
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError("expected a JSON object with 'keys', a list of keys") from error
        if not any(keys.values()):
            raise ValueError(
                "expected at least one public key for signatures, for one of the algorithms "
                + ", ".join(self.settings.algorithms)
            )
        self._keys = {id: found for id, found in keys.items() if found}
        entries = {str(entry.get("kid", "")): entry for entry in usable}
        withdrawn = {id for id, entry in self._entries.items() if entries.get(id) != entry}
        if entries != self._entries:
            self.keys_read = object()
        self._entries = entries
        if withdrawn:
            self.end_callers("the key of the token was withdrawn", withdrawn)
        self._reread(True)

    def _by_algorithm(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a key for each algorithm of the settings that it may be used with."""
        found: dict[str, Any] = {}
        for algorithm in self.settings.algorithms:
            if entry.get("alg") not in (None, algorithm) or not algorithm.startswith(PUBLIC[entry["kty"]]):
                continue
            if entry["kty"] == "EC" and CURVES.get(entry.get("crv", "")) != algorithm:
                continue
            try:
                found[algorithm] = self._jwt.PyJWK(dict(entry), algorithm)
            except (self._jwt.PyJWTError, ValueError, TypeError):
                continue  # damaged, or of a type that this release doesn't know; the others are usable
        return found

    def _failed(self, error: Exception) -> None:
        logger.error("jwt.keys: %s can't be read, so the keys read before stay in use: %s", self.settings.keys, error)
        self._reread(False)

    def _fetch_always(self) -> None:
        while not self._stopping:
            # Before, so that a token with an unknown key that comes meanwhile causes one more.
            self._wanted.clear()
            try:
                self._take(_fetched(self.settings.keys))
            except Exception as error:
                self._failed(error)
            until = time.monotonic() + self.settings.refresh_seconds
            self._pause(min(MIN_FETCH_SECONDS, self.settings.refresh_seconds))
            # More often at first, since every call fails without keys.
            left = MIN_FETCH_SECONDS if self._keys is None else until - time.monotonic()
            if left > 0:
                self._wanted.wait(left)

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < end:
            time.sleep(min(0.2, seconds))


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to addresses that the setting may have, too."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Returns the request that follows a redirect. Raises ValueError."""
        if not may_have_keys(newurl):
            raise ValueError(f"got a redirect to '{newurl[:200]}', expected an https:// address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetched(address: str) -> bytes:
    request = urllib.request.Request(address, headers={"Accept": "application/json", "User-Agent": "layerserve"})
    until = time.monotonic() + FETCH_SECONDS
    data = bytearray()
    with urllib.request.build_opener(_SafeRedirects).open(request, timeout=FETCH_SECONDS) as reply:
        # The timeout is of each read, of which an address that sends a byte at a time needs any number.
        while part := reply.read1():
            data += part
            if len(data) > MAX_KEYS_BYTES:
                raise ValueError(f"got more than {MAX_KEYS_BYTES} bytes")
            if time.monotonic() > until:
                raise ValueError(f"got {len(data)} bytes in {FETCH_SECONDS:g} seconds, expected the whole set")
    return bytes(data)


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """Returns a claim; a name with dots that isn't a claim leads into objects ("realm_access.roles")."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _texts(value: Any) -> list[str]:
    """Returns the texts of a claim: a list, or one text separated by spaces, as `scope` is."""
    if isinstance(value, str):
        return value.split()
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
