"""The settings of one model, which its TOML file overrides: `layerserve.toml` in its folder.

For a model that is a single file, NAME.keras, the settings may also be in NAME.toml beside it.
"""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from layerserve_server.repository.canary import read_share
from layerserve_server.repository.layout import CLASS_LABELS, LABEL
from layerserve_server.repository.signatures import SignatureSettings
from layerserve_server.settings.fields import Engine, Precision
from layerserve_server.toml_text import TomlError, parse_toml

#: Name of the file in a model's folder.
SETTINGS_FILE: Final = "layerserve.toml"
#: Maximum size of the file, in bytes.
MAX_BYTES: Final = 64 * 1024
#: Settings with which a version is loaded; a loaded one is loaded again if one of them changes.
_OF_LOADING: Final = (
    "engine",
    "precision",
    "compute_threads",
    "nice",
    "pad_sequences",
    "golden_rtol",
    "golden_atol",
    "signatures",
    "class_labels",
)


def _check_share(text: str) -> str:
    read_share(text)
    return text


def _check_file(name: str) -> str:
    if not name.endswith(CLASS_LABELS):
        raise ValueError(f"a name that ends in {CLASS_LABELS}")
    return name


Version = Annotated[int, Field(ge=1, le=10**18 - 1)]
Share = Annotated[str, AfterValidator(_check_share)]
Label = Annotated[str, Field(pattern=f"^{LABEL.pattern}$")]
LabelsFile = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,199}$"), AfterValidator(_check_file)]


class ModelSettingsError(Exception):
    """A settings file is invalid. The text names the file, and for each wrong key the value got and that expected."""


class ModelSettings(BaseModel):
    """The settings of one model. A setting without a value has that of the server's settings of the same name."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, defer_build=True)

    version_policy: Literal["latest", "all", "specific"] = Field(
        default="latest",
        description=(
            "Versions that are kept loaded: 'latest' the newest, and others when a request names them; 'all'; or "
            "'specific' those in `specific_versions`, and no others are served."
        ),
    )
    latest_versions: int = Field(
        default=1, ge=1, le=1000, description="Number of versions that 'latest' keeps loaded, the default included."
    )
    specific_versions: Annotated[tuple[Version, ...], Field(strict=False)] = Field(
        default=(), description="The versions that 'specific' serves."
    )
    default_version: Version | None = Field(
        default=None,
        description=(
            "Version that answers requests that name none, until PinVersion sets another. Default: the newest that "
            "is ready."
        ),
    )
    canary: Share | None = Field(
        default=None,
        description=(
            "Share of callers, such as '5%', whose requests that name no version get the version of `canary_label`. "
            "A caller is recognized by the metadata layerserve-key, else by its name, else by its address."
        ),
    )
    canary_label: Label = Field(
        default="canary", description="Label of the version for these callers. Without it the default answers them."
    )
    keep_loaded: bool = Field(
        default=False,
        description=(
            "Load the versions that the policy keeps at the start, and don't unload them to make room for others, if "
            "the server has max_model_bytes."
        ),
    )
    load_retries: int = Field(
        default=0, ge=0, le=1000, description="Number of times that a version that failed to load is tried again."
    )
    load_retry_seconds: float = Field(
        default=5.0, gt=0, le=86400, description="Time before the first of these, in seconds; doubled for each further."
    )
    warm_up_rows: int = Field(
        default=0,
        ge=0,
        le=65536,
        description=(
            "Number of rows of a batch that is computed before a version serves, after one of 1 row. 0 computes none. "
            "The inputs are those of golden.npz, or random."
        ),
    )
    golden_rtol: float | None = Field(
        default=None, ge=0, description="Relative tolerance for golden.npz. Default: the one in that file, or 1e-4."
    )
    golden_atol: float | None = Field(
        default=None, ge=0, description="Absolute tolerance for golden.npz. Default: the one in that file, or 1e-5."
    )

    callers: Annotated[tuple[str, ...], Field(strict=False)] | None = Field(
        default=None,
        description=(
            "Names or patterns of the callers that may use the model, as far as they have the right. Others are "
            "refused as if they had no right on it. Default: all."
        ),
    )

    max_batch_rows: int | None = Field(default=None, ge=1, description="Maximum number of rows per batch.")
    max_queue_rows: int | None = Field(default=None, ge=1, description="Maximum number of rows in a version's queue.")
    pad_sequences: bool | None = Field(
        default=None, description="Batch sequences of different lengths, by padding shorter ones at the end."
    )
    engine: Engine | None = Field(default=None, description="Engine that computes predictions.")
    precision: Precision | None = Field(default=None, description="Precision in which a float32 model computes.")
    compute_threads: int | None = Field(
        default=None, ge=1, le=1024, description="Number of threads per execution of this model."
    )
    nice: int = Field(
        default=0,
        ge=0,
        le=19,
        description=(
            "Priority of the model: the niceness of the thread that computes its batches, from 0 (that of other "
            "models) to 19."
        ),
    )
    signatures: dict[str, SignatureSettings] | None = Field(
        default=None,
        description=(
            "Names for clients that name a signature, by its key: tables `inputs` and `outputs` of names, "
            "each with the model's own name. Default: the names of an export."
        ),
    )
    class_labels: dict[str, LabelsFile] = Field(
        default={},
        description=(
            "Files with labels of classes, one per line, by output, for Triton's classification. Their names end in "
            "'labels.txt', and they are in the version's folder or in the model's."
        ),
    )

    @model_validator(mode="after")
    def _versions_of_policy(self) -> ModelSettings:
        policy = self.version_policy
        if (policy == "specific") != bool(self.specific_versions):
            got = list(self.specific_versions)
            expected = "at least one version" if policy == "specific" else "none, or version_policy 'specific'"
            raise ValueError(f"specific_versions: got {got} with version_policy '{policy}', expected {expected}")
        if policy != "latest" and "latest_versions" in self.model_fields_set:
            raise ValueError(f"latest_versions: got a value with version_policy '{policy}', expected none")
        if policy == "specific" and self.default_version not in (None, *self.specific_versions):
            listed = ", ".join(map(str, self.specific_versions))
            raise ValueError(f"default_version: got {self.default_version}, expected one of {listed}")
        return self

    @property
    def of_loading(self) -> tuple[Any, ...]:
        """Values of the settings with which a version is loaded: if they change, it must be loaded again."""
        return tuple(getattr(self, name) for name in _OF_LOADING)

    def serves(self, version: int) -> bool:
        """Whether the policy allows a version to be served."""
        return self.version_policy != "specific" or version in self.specific_versions


DEFAULTS: Final = ModelSettings()


def parse_settings(content: bytes, file: str, kind: type[ModelSettings] = ModelSettings) -> ModelSettings:
    """Returns the settings in the content of a file; `file` is its name for errors. Raises ModelSettingsError.

    `kind` has the settings of extensions, too.
    """
    if len(content) > MAX_BYTES:
        raise ModelSettingsError(f"{file}: got more than {MAX_BYTES} bytes")
    try:
        values = parse_toml(content.decode("utf-8"))
    except (UnicodeDecodeError, TomlError) as error:
        raise ModelSettingsError(f"{file}: {error}") from error
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(dict.fromkeys(_problem(entry, kind) for entry in error.errors()))
        raise ModelSettingsError(f"{file}: {problems}") from error


def read_content(path: Path) -> bytes | None:
    """Returns the content of a settings file, at most a byte more than is allowed; None if there is no such file.

    Raises ModelSettingsError if it can't be read or isn't a regular file.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise ModelSettingsError(f"{path.name}: expected a regular file")
            return file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ModelSettingsError(f"{path.name}: {error.strerror}") from error


def invalid_files(root: Path, kind: type[ModelSettings]) -> list[str]:
    """Returns an error text for each settings file in a repository that is invalid, with the file's path."""
    found = []
    for path in sorted((*root.glob(f"*/{SETTINGS_FILE}"), *root.glob("*.toml"))):
        beside = path.parent == root
        if path.parent.name.startswith(".") or (beside and not any(root.glob(f"{path.stem}.[kh]*"))):
            continue
        try:
            parse_settings(read_content(path) or b"", str(path), kind)
        except ModelSettingsError as error:
            found.append(str(error))
    return found


def _table(kind: type[ModelSettings], key: str) -> type[BaseModel]:
    """Returns what the tables of a setting are, such as `SignatureSettings`."""
    annotation = kind.model_fields[key].annotation
    found = [one for part in (annotation, *get_args(annotation)) for one in get_args(part) if isinstance(one, type)]
    return next((one for one in found if issubclass(one, BaseModel)), kind)


def _problem(entry: Mapping[str, Any], kind: type[ModelSettings]) -> str:
    """Returns the text for an error of pydantic: the key, the value got and that expected."""
    if not entry["loc"]:
        return str(entry["msg"]).removeprefix("Value error, ")
    key = ".".join(map(str, entry["loc"]))
    if entry["type"] == "extra_forbidden":
        known = _table(kind, str(entry["loc"][0])).model_fields if len(entry["loc"]) > 1 else kind.model_fields
        near = difflib.get_close_matches(str(entry["loc"][-1]), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(known)}"
        return f"unknown setting '{key}'; {hint}"
    expected = str(entry["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{key}: got {entry['input']!r}, expected {expected}"
