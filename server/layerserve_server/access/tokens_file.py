"""The file of tokens, certificates and JWT settings (`--tokens`), read and validated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from layerserve_server.toml_text import TomlError, parse_toml

GrantedRight = Literal["predict", "read", "train", "manage"]
#: Asymmetric ones only: with a symmetric one, those who can check tokens can also make them.
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]

#: Lists of TOML, which aren't changed.
GrantedRights = Annotated[tuple[GrantedRight, ...], Field(strict=False)]
Names = Annotated[tuple[str, ...], Field(strict=False)]

#: Maximum length of a caller's name, in characters.
MAX_NAME = 200
#: Hosts from which keys may be fetched without TLS.
LOCAL = ("localhost", "127.0.0.1", "::1")


def may_have_keys(address: str) -> bool:
    """Whether keys may be fetched from an address: on the way from there they can't be replaced."""
    parts = urlsplit(address)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOCAL)


class TokensFileError(ValueError):
    """The file can't be read or is invalid. The text has a line per wrong key."""


def _with_zone(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("a time with its zone, such as 2027-01-01T00:00:00Z")
    return value


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Grant(_Entry):
    """What one identity may do."""

    name: str = Field(min_length=1, max_length=MAX_NAME)
    rights: GrantedRights
    models: Names = ("*",)
    rows_per_second: float | None = Field(default=None, gt=0)
    rows_per_minute: float | None = Field(default=None, gt=0)
    max_runs: int | None = Field(default=None, ge=0)
    max_dataset_bytes: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one_rate(self) -> Grant:
        if self.rows_per_second is not None and self.rows_per_minute is not None:
            raise ValueError("one of rows_per_second and rows_per_minute")
        return self


class Token(Grant):
    """A bearer token, by its SHA-256 digest."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    expires: Annotated[datetime, AfterValidator(_with_zone)] | None = None


class Certificate(Grant):
    """A client certificate, by its common name or one of its alternative names."""


class Jwt(_Entry):
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


class TokensFile(_Entry):
    """The whole file."""

    tokens: tuple[Token, ...] = Field(default=(), strict=False)
    certificates: tuple[Certificate, ...] = Field(default=(), strict=False)
    jwt: Jwt | None = None

    @model_validator(mode="after")
    def _no_repeats(self) -> TokensFile:
        for what, keys in (
            ("tokens with different sha256", [token.sha256 for token in self.tokens]),
            ("certificates with different names", [one.name for one in self.certificates]),
        ):
            if len(set(keys)) < len(keys):
                repeated = next(key for key in keys if keys.count(key) > 1)
                raise ValueError(f"{what}, got '{repeated}' twice")
        return self


def read_text(path: Path) -> str:
    """Returns the text of the file, or of a copy of it. Raises TokensFileError."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise TokensFileError(f"tokens file {path}: {reason}") from error


def tokens_in(text: str, path: Path) -> TokensFile:
    """Parses the text of the file `path`, whose folder has the keys.

    Raises TokensFileError with the file, the key, what it got and expected.
    """
    found = parse_tokens(text, f"tokens file {path}")
    if found.jwt is not None and not found.jwt.remote:
        keys = path.parent / Path(found.jwt.keys).expanduser()
        found = found.model_copy(update={"jwt": found.jwt.model_copy(update={"keys": str(keys)})})
    return found


def parse_tokens(text: str, what: str) -> TokensFile:
    """Parses the text of a file. Raises TokensFileError with `what`, the key, what it got and what it expected."""
    try:
        return TokensFile.model_validate(parse_toml(text))
    except TomlError as error:
        raise TokensFileError(f"{what}: {error}") from error
    except ValidationError as error:
        raise TokensFileError("\n".join(f"{what}: {_line(entry)}" for entry in error.errors())) from error


def _line(entry: Mapping[str, Any]) -> str:
    """Returns the line of an invalid key: "tokens[0].rights[1]: got 'predct', expected 'predict', 'read' ..."."""
    key = _key(entry["loc"])
    if entry["type"] == "extra_forbidden":
        return f"unknown key '{key}'"
    if key.endswith(".sha256") and entry["type"] in ("missing", "string_pattern_mismatch"):
        got = "none" if entry["type"] == "missing" else repr(entry["input"])[:80]
        return f"{key}: got {got}, expected 64 hexadecimal digits, as `layerserve token create` prints them"
    if entry["type"] == "missing":
        return f"{key}: got none, expected a value"
    expected = str(entry["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    expected = expected.replace("a valid tuple", "a list")
    got = entry["input"]
    # Not whole entries: their digests have no place in logs.
    shown = f"got {got!r:.80}, " if isinstance(got, (str, int, float)) else ""
    return f"{key}: {shown}expected {expected}" if key else f"expected {expected}"


def _key(parts: Sequence[str | int]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
