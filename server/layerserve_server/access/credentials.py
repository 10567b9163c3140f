"""What a tokens file grants: authorization headers and certificates -> callers."""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256

from layerserve_server.access.caller import Caller
from layerserve_server.access.json_web_tokens import RefusedForNowError, Verifier
from layerserve_server.access.quota import MAX_KEPT, Quota, Quotas
from layerserve_server.access.reserved import NONE, Reserved
from layerserve_server.access.tokens_file import Grant, Token, TokensFile
from layerserve_server.errors import TokenExpiredError, UnauthenticatedError

#: Maximum length of a token, in characters.
MAX_TOKEN = 16 * 1024

WRONG_SCHEME = "authorization: expected 'Bearer TOKEN'"
WRONG_TOKEN = "authorization: the token isn't valid on this server"


class Credentials:
    """The callers of one reading of the file."""

    def __init__(
        self, file: TokensFile, quotas: Quotas, verifier: Verifier | None = None, reserved: Reserved = NONE
    ) -> None:
        """`verifier` checks JSON Web Tokens; None accepts none. `reserved` are models that only some may use."""
        self._tokens = {bytes.fromhex(token.sha256): (token, _caller(token, quotas, reserved)) for token in file.tokens}
        self._certificates = {grant.name: _caller(grant, quotas, reserved) for grant in file.certificates}
        self._verifier = verifier
        #: Callers by authorization header, so that a token is hashed or verified once.
        self._known: dict[str, Caller] = {}
        #: Refusals of JSON Web Tokens by digest, with the keys of then: a signature takes longer to check than a
        #: prediction.
        self._refused: dict[bytes, tuple[type[UnauthenticatedError], str, object]] = {}

    def caller(self, header: str) -> Caller:
        """Returns the caller of an authorization header. Raises UnauthenticatedError if it has no valid token."""
        found = self._known.get(header)
        if found is None or found.ended is not None:
            found = self._find(header)
            if len(self._known) >= MAX_KEPT:
                self._known.clear()
            self._known[header] = found
        if found.expires is not None:
            found.check_current()
        return found

    def of_certificate(self, names: Sequence[str]) -> Caller | None:
        """Returns the caller of a verified client certificate with these names; None if the file has none of them."""
        return next((self._certificates[name] for name in names if name in self._certificates), None)

    def end_expired(self) -> None:
        """Ends the streams of callers whose token in the file has expired."""
        now = time.time()
        for _, caller in self._tokens.values():
            if caller.expires is not None and now >= caller.expires:
                caller.end(TokenExpiredError, caller.expired_text())

    def replace(self, old: Credentials) -> None:
        """Takes the place of an older reading. Ends the streams of callers that no longer have what they had."""
        kept = {caller.key: caller for caller in old._all()}
        # The same objects as before, so that the next reading finds those of all open streams.
        self._tokens = {
            digest: (token, kept.pop(caller.key, caller)) for digest, (token, caller) in self._tokens.items()
        }
        self._certificates = {name: kept.pop(caller.key, caller) for name, caller in self._certificates.items()}
        for caller in kept.values():
            caller.end(UnauthenticatedError, "the token or certificate was withdrawn, or its rights have changed")

    def _all(self) -> Iterator[Caller]:
        yield from (caller for _, caller in self._tokens.values())
        yield from self._certificates.values()

    def _find(self, header: str) -> Caller:
        scheme, _, token = header.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or len(token) > MAX_TOKEN:
            raise UnauthenticatedError(WRONG_SCHEME)
        digest = sha256(token.encode("utf-8", "replace")).digest()
        entry = self._tokens.get(digest)
        # The lookup depends on the digest only, which reveals nothing about the token; the comparison takes the
        # same time for all digests.
        if entry is not None and hmac.compare_digest(bytes.fromhex(entry[0].sha256), digest):
            return entry[1]
        if self._verifier is None or token.count(".") != 2:
            raise UnauthenticatedError(WRONG_TOKEN)
        return self._verified(token, digest, self._verifier)

    def _verified(self, token: str, digest: bytes, verifier: Verifier) -> Caller:
        keys = verifier.keys_read
        refused = self._refused.get(digest)
        if refused is not None and refused[2] is keys:
            raise refused[0](refused[1])
        try:
            return verifier.caller(token)
        except RefusedForNowError:
            raise
        except UnauthenticatedError as error:
            if len(self._refused) >= MAX_KEPT:
                self._refused.clear()
            self._refused[digest] = type(error), str(error), keys
            raise


def _caller(grant: Grant, quotas: Quotas, reserved: Reserved) -> Caller:
    expires = grant.expires.timestamp() if isinstance(grant, Token) and grant.expires is not None else None
    rows, seconds = grant.rows_per_second, 1.0
    if grant.rows_per_minute is not None:
        rows, seconds = grant.rows_per_minute, 60.0
    quota: Quota | None = quotas.get(
        grant.name, rows, seconds, grant.max_runs, max_dataset_bytes=grant.max_dataset_bytes
    )
    source = grant.sha256 if isinstance(grant, Token) else ""
    return Caller(
        grant.name, grant.rights, grant.models, quota=quota, expires=expires, source=source, reserved=reserved
    )
