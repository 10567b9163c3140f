"""Callers: who calls, and what they may do."""

from __future__ import annotations

import time
from collections.abc import Collection
from fnmatch import fnmatchcase

from layerserve_server.access.quota import MAX_KEPT, Quota
from layerserve_server.access.reserved import NONE, Reserved
from layerserve_server.access.rights import RIGHTS, Right, with_alternatives
from layerserve_server.errors import ForbiddenError, ServerError, TokenExpiredError, UnauthenticatedError, safe_text

#: Error for callers without a token.
SEND_ONE = "send one as 'authorization: Bearer TOKEN' (--token-file)"


class Caller:
    """An identity with its rights on models. Calls and streams carry it to the services.

    It lives as long as its entry in the tokens file. Revoking the entry marks the object, so open streams notice.
    """

    __slots__ = (
        *("__weakref__", "_allowed", "_named", "_only"),
        *("ended", "expires", "models", "name", "quota", "reserved", "rights", "source", "unlimited"),
    )

    def __init__(
        self,
        name: str,
        rights: Collection[Right] = RIGHTS,
        models: Collection[str] = ("*",),
        *,
        quota: Quota | None = None,
        expires: float | None = None,
        named: bool = True,
        only: bool = False,
        source: str = "",
        reserved: Reserved = NONE,
    ) -> None:
        """`models` are names or patterns; `expires` is a Unix time in seconds; None means never.

        A caller that isn't `named` has presented neither a token nor a certificate; it is the `only` one of a server
        that asks for neither. `source` is the digest of its token, or the id of its token's key. `reserved` are models
        that only some callers may use.
        """
        self.name = name
        #: With those of which a method needs any (see `rights`).
        self.rights: frozenset[Right] = with_alternatives(rights)
        self.models = tuple(models)
        #: None means no limits.
        self.quota = quota
        self.expires = expires
        #: Whether there is nothing to check but `reserved`. Both are fields, as each request reads them.
        self.unlimited = self.rights.issuperset(RIGHTS) and self.models == ("*",) and quota is None
        self.reserved = reserved
        self._named = named
        self._only = only
        self.source = source
        #: The error with which the caller's streams end; None while it may go on.
        self.ended: UnauthenticatedError | None = None
        # Checks that succeeded with the restrictions of a version: for each request of a model, a set lookup replaces
        # the comparison with patterns. Replaced, never cleared: a check that began before a change may end after it.
        self._allowed: tuple[int, set[tuple[Right, str]]] = (reserved.version, set())

    def __repr__(self) -> str:
        return f"Caller({self.name!r}, {sorted(self.rights)}, {self.models})"

    @property
    def named(self) -> bool:
        """Whether it has presented a token or a certificate."""
        return self._named

    @property
    def owner(self) -> str:
        """Its name as an owner: empty for callers without a token or certificate, whatever tokens are named."""
        return self.name if self._named else ""

    @property
    def may_own(self) -> bool:
        """Whether something can belong to it: where others have tokens, callers without one can't be told apart."""
        return self._named or self._only

    def owns(self, *owners: str) -> bool:
        """Whether it is one of these owners."""
        return self.may_own and self.owner in owners

    def check_may_own(self, what: str) -> None:
        """Raises UnauthenticatedError if nothing can belong to it. `what` would: "datasets"."""
        if not self.may_own and not self.manages_all:
            raise UnauthenticatedError(f"{what} belong to callers with a token or certificate; {SEND_ONE}")

    @property
    def manages_all(self) -> bool:
        """Whether it has the right "manage" on all models."""
        return "manage" in self.rights and "*" in self.models

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for callers that may do the same with the same token or certificate."""
        return self.source, self.name, self.rights, self.models, self.expires, self.quota

    def end(self, kind: type[UnauthenticatedError], text: str) -> None:
        """Ends the caller's streams with an error. Its further calls are looked up anew."""
        self.ended = kind(text)

    def lost(self, model: str) -> ServerError | None:
        """Returns the error for an open stream of a model, or of none: the caller or the model may have changed."""
        if self.ended is not None:
            return type(self.ended)(str(self.ended))
        if model and not self._admitted(model):
            return ForbiddenError(
                f"model '{safe_text(model, 80)}': isn't open to caller '{safe_text(self.name, 80)}' any more"
            )
        return None

    def may(self, right: Right, model: str) -> bool:
        """Whether the caller has a right on a model. The model need not exist."""
        allowed = right in self.rights and any(fnmatchcase(model, pattern) for pattern in self.models)
        return allowed and self._admitted(model)

    def _admitted(self, model: str) -> bool:
        return self.reserved.admits(self.name, model, manages="manage" in self.rights)

    def check(self, right: Right, method: str) -> None:
        """Raises UnauthenticatedError or ForbiddenError if the caller may not call a method that needs this right."""
        if right not in self.rights:
            if not self._named:
                raise UnauthenticatedError(
                    f"{method}: callers without a token have no {_phrase(right)} on this server; {SEND_ONE}"
                )
            raise ForbiddenError(f"{method}: caller '{safe_text(self.name, 80)}' has no {_phrase(right)}")

    def check_model(self, right: Right, model: str) -> None:
        """Raises ForbiddenError if the caller may not do this with a model, whether it exists or not."""
        version, allowed = self._allowed
        if version != self.reserved.version or len(allowed) >= MAX_KEPT:
            # The version first, so that a change in between isn't missed.
            _, allowed = self._allowed = (self.reserved.version, set())
        if (right, model) in allowed:
            return
        if not self.may(right, model):
            if not self._named:
                raise UnauthenticatedError(
                    f"model '{safe_text(model, 80)}': callers without a token have no {_phrase(right)} on it; "
                    f"{SEND_ONE}"
                )
            raise ForbiddenError(
                f"model '{safe_text(model, 80)}': caller '{safe_text(self.name, 80)}' has no {_phrase(right)} on it"
            )
        allowed.add((right, model))

    def check_current(self) -> None:
        """Raises TokenExpiredError if the caller's token has expired."""
        if self.expires is not None and time.time() >= self.expires:
            raise TokenExpiredError(self.expired_text())

    def expired_text(self) -> str:
        """Returns the error text for the caller's expired token."""
        return f"authorization: the token of '{safe_text(self.name, 80)}' has expired"


def _phrase(right: Right) -> str:
    return "right" if right == "any" else f"right '{right}'"


#: The caller of all calls of a server that asks for no token.
ANYONE = Caller("anyone", named=False, only=True)
