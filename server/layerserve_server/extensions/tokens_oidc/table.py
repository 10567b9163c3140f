"""The table [jwt] of the tokens file."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from layerserve_server.access.tokens_file import GrantedRights, Names, Table

#: Asymmetric ones only: with a symmetric one, those who can check tokens can also make them.
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


#: Hosts from which keys may be fetched without TLS.
LOCAL = ("localhost", "127.0.0.1", "::1")


def may_have_keys(address: str) -> bool:
    """Whether keys may be fetched from an address: on the way from there they can't be replaced."""
    parts = urlsplit(address)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOCAL)


class Jwt(Table):
    """How JSON Web Tokens are checked, and which rights their claims give."""

    #: File or address of a JSON Web Key Set.
    keys: str = Field(min_length=1)
    issuer: str = Field(min_length=1)
    audience: str = Field(min_length=1)
    algorithms: tuple[Algorithm, ...] = Field(default=("RS256", "ES256"), min_length=1, strict=False)
    leeway_seconds: float = Field(default=30.0, ge=0, le=300)
    name_claim: str = "sub"
    rights_claim: str = "rights"
    #: Rights by value of that claim; without it the values are names of rights.
    roles: dict[str, GrantedRights] | None = None
    #: Claim with names and patterns of models; None gives `models` to all.
    models_claim: str | None = None
    models: Names = ("*",)
    refresh_seconds: float = Field(default=300.0, ge=1)
    rows_per_second: float | None = Field(default=None, gt=0)
    max_runs: int | None = Field(default=None, ge=0)
    max_dataset_bytes: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _safe_address(self) -> Jwt:
        if self.remote and not may_have_keys(self.keys):
            raise ValueError(f"keys as a file or an https:// address, got '{self.keys}'")
        return self

    @property
    def remote(self) -> bool:
        """Whether `keys` is an address."""
        return "://" in self.keys
