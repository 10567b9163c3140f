"""What the extension adds: callers by JSON Web Tokens."""

from __future__ import annotations

from layerserve_server.access.verifiers import Callers, Verifier, VerifierKind
from layerserve_server.extensions.extension import Extension
from layerserve_server.extensions.tokens_oidc.table import Jwt


def _make(table: Jwt, callers: Callers) -> Verifier:
    # Imported here, since most tokens files have no such table.
    from layerserve_server.extensions.tokens_oidc.verifier import JwtVerifier

    return JwtVerifier(table, callers)


JWT = VerifierKind(name="jwt", table=Jwt, make=_make)
TOKENS_OIDC = Extension(name="tokens_oidc", verifiers=[JWT])
