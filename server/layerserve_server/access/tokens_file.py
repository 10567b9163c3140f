"""The file of tokens and certificates (`--tokens`), read and validated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from layerserve_server.access.verifiers import VerifierKind
from layerserve_server.errors import error_text
from layerserve_server.toml_text import TomlError, parse_toml

GrantedRight = Literal["predict", "read", "train", "manage"]

#: Lists of TOML, which aren't changed.
GrantedRights = Annotated[tuple[GrantedRight, ...], Field(strict=False)]
Names = Annotated[tuple[str, ...], Field(strict=False)]

#: Maximum length of a caller's name, in characters.
MAX_NAME = 200


class TokensFileError(ValueError):
    """The file can't be read or is invalid. The text has a line per wrong key."""


def _with_zone(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("a time with its zone, such as 2027-01-01T00:00:00Z")
    return value


class Table(BaseModel):
    """A table of the file. A key that it doesn't have is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Grant(Table):
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


class TokensFile(Table):
    """The whole file, with a field for the table of each kind of verifiers."""

    tokens: tuple[Token, ...] = Field(default=(), strict=False)
    certificates: tuple[Certificate, ...] = Field(default=(), strict=False)

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
        raise TokensFileError(f"tokens file {path}: {error_text(error)}") from error


def parse_tokens(text: str, what: str, kinds: Sequence[VerifierKind] = ()) -> TokensFile:
    """Parses the text of a file, which may have the tables of these kinds of verifiers.

    Raises TokensFileError with `what`, the key, what it got and what it expected.
    """
    tables: dict[str, Any] = {kind.name: (kind.table | None, None) for kind in kinds}
    try:
        return create_model("TokensFile", __base__=TokensFile, **tables).model_validate(parse_toml(text))
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
