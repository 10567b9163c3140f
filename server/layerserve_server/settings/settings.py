"""The settings of a server: the table of fields, what values go together, and what follows from them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from layerserve.cli.variables import PREFIX, of_kubernetes
from pydantic import ValidatorFunctionWrapHandler, field_validator, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from layerserve_server.access.rights import RIGHTS, Right, read_rights
from layerserve_server.disk import STATE_FOLDER
from layerserve_server.settings.fields import DRAIN_SECONDS, SettingFields
from layerserve_server.settings.flags import extra

S = TypeVar("S", bound="Settings")

#: Value of `allow_anonymous` for no rights, where the default gives all.
NONE = "none"


class Settings(SettingFields):
    """All settings. Flags take precedence over the environment, and the environment over the file.

    An extension with settings derives a class from this one (see `extensions`).
    """

    @classmethod
    def of(cls: type[S], settings: Settings) -> S:
        """Returns the settings as those of an extension: with its defaults, if they don't have its settings."""
        return settings if isinstance(settings, cls) else cls.model_construct(**dict(settings))

    def needed_modules(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Yields the settings that need packages which may be missing: what pip installs, by module."""
        if self.http_port >= 0:
            yield "http_port", {name: name for name in ("httptools", "orjson")}
        if self.transport == "native":
            yield "transport", {"pygrpc_native": "pygrpc-native>=0.5,<0.6"}
        if self.engine == "onnxruntime":
            yield "engine", {"onnxruntime": "onnxruntime", "onnx": "onnx"}
        if self.engine == "openvino":
            yield "engine", {"openvino": "openvino", "onnx": "onnx"}
        if isinstance(self.data_root, str):
            yield "data_root", {"fsspec": "fsspec", "pyarrow": "pyarrow"}

    @classmethod
    def source_of(cls, path: str) -> str:
        """Returns PATH in its normal form if an extension reads models from it; empty if it is a folder or file.

        Raises ValueError with what was expected.
        """
        return ""

    @field_validator("path", mode="wrap")
    @classmethod
    def _path_or_source(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Path | str:
        return (cls.source_of(value) if isinstance(value, str) else "") or Path(handler(value))

    @field_validator("data_root", mode="wrap")
    @classmethod
    def _folder_or_address(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Path | str | None:
        if not isinstance(value, str) or "://" not in value:
            found = handler(value)
            return Path(found) if found is not None else None
        # Not a chain of fsspec's (`simplecache::...`). A folder of this machine is opened as one.
        if not _STORE.fullmatch(value) or value.startswith(("file:", "local:")):
            raise ValueError("a folder, or the address of one in a store, such as s3://BUCKET/FOLDER")
        return value.rstrip("/")

    @field_validator("*")
    @classmethod
    def _expand_user(cls, value: Any) -> Any:
        return value.expanduser() if isinstance(value, Path) else value

    @model_validator(mode="after")
    def _hosts_have_a_port(self) -> Settings:
        if self.http_hosts and self.http_port < 0:
            raise ValueError(
                f"{spellings('http_hosts')}: got names without a port for HTTP, expected --http-port with them"
            )
        return self

    @model_validator(mode="after")
    def _pair_tls(self) -> Settings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key: got one of them, expected both or none")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca: expected tls_certificate and tls_key with it")
        if self.transport == "native" and self.tls_certificate is not None:
            raise ValueError("transport 'native' doesn't support TLS: use 'grpcio', or terminate TLS in a proxy")
        return self

    @field_validator("allow_anonymous")
    @classmethod
    def _names_rights(cls, value: str) -> str:
        if value != NONE:
            read_rights(value)
        return value

    @model_validator(mode="after")
    def _decides_about_callers(self) -> Settings:
        if not (is_loopback(self.host) or self.tokens or self.tls_client_ca or self.allow_anonymous):
            raise ValueError(
                f"{spellings('host')}: got '{self.host}', where others reach the server, and nothing that limits what "
                "they may do: expected --tokens FILE, --tls-client-ca FILE, or --allow-anonymous with the rights of "
                f"all callers ({', '.join(RIGHTS)}), such as --allow-anonymous predict,read"
            )
        return self

    @model_validator(mode="after")
    def _age_of_connections(self) -> Settings:
        age = self.max_connection_age_seconds
        if self.transport == "native" and age:
            raise ValueError(
                f"max_connection_age_seconds: got {age:g} with transport 'native', expected 0: use 'grpcio', or set it "
                "in a proxy"
            )
        return self

    @model_validator(mode="after")
    def _workers_are_processors(self) -> Settings:
        if self.training_device != "cpu" and self.max_workers > 1:
            raise ValueError(
                f"training_device: got '{self.training_device}' with max_workers {self.max_workers}, expected 'cpu': "
                "runs with several workers train on CPUs"
            )
        return self

    @property
    def host_names(self) -> tuple[str, ...]:
        """Names in `http_hosts`."""
        return comma_separated(self.http_hosts)

    @property
    def longest_drain_seconds(self) -> float:
        """Maximum time for which the server drains, in seconds."""
        return DRAIN_SECONDS if self.drain_seconds is None else self.drain_seconds

    def loads(self, model: str) -> bool:
        """Whether a model is loaded at the start."""
        named = comma_separated(self.load)
        return self.model_control != "explicit" or model in named or "*" in named

    def pads(self, model: str) -> bool:
        """Whether sequences of this model are padded."""
        return any(fnmatchcase(model, pattern) for pattern in comma_separated(self.pad_sequences))

    @property
    def anonymous_rights(self) -> frozenset[Right] | None:
        """Rights of callers without token and certificate; None if the setting is unset."""
        if not self.allow_anonymous:
            return None
        return frozenset() if self.allow_anonymous == NONE else read_rights(self.allow_anonymous)

    @property
    def root(self) -> Path:
        """Folder of the models, or the single model file."""
        return Path(self.path)

    @property
    def state_folder(self) -> Path:
        """Folder of training runs, and of versions published for a single model file."""
        if self.state is not None:
            return self.state
        return (self.root.parent if self.root.is_file() else self.root) / STATE_FOLDER

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Excludes pydantic's .env files and secret folders. `read_settings` adds flags and file."""
        return init_settings, own_variables(env_settings)


def comma_separated(text: str) -> tuple[str, ...]:
    """Returns the entries of a setting that is a comma-separated list, without spaces around them and empty ones."""
    return tuple(filter(None, map(str.strip, text.split(","))))


def is_loopback(host: str) -> bool:
    """Whether only this machine's processes reach a host."""
    if host == "localhost" or host.startswith("unix:"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # another name, or "" for all addresses


def own_variables(source: PydanticBaseSettingsSource) -> PydanticBaseSettingsSource:
    """Removes variables that Kubernetes set under the name of a setting, such as LAYERSERVE_METRICS_PORT."""
    if isinstance(source, EnvSettingsSource):
        found = source.env_vars.items()
        source.env_vars = {name: value for name, value in found if not of_kubernetes(name, value)}
    return source


def spellings(name: str) -> str:
    """Returns all spellings of a setting."""
    flag = "PATH" if name == "path" else "--" + name.replace("_", "-")
    return f"{flag} ({PREFIX}{name.upper()}, '{name}' in the file)"


#: The address of a folder in a store.
_STORE = re.compile(r"[a-z][a-z0-9+.-]*://(?!.*(//|::|/\.\.?(/|$)))[^/][ -~]*")

#: Whether a path leads to what its field says that `exists`.
_LEADS: Mapping[str, Callable[[Path], bool]] = {
    "a file": Path.is_file,
    "a folder": Path.is_dir,
    "a folder or a model file": Path.exists,
}


def missing_paths(settings: Settings) -> list[str]:
    """Returns an error line per path in the settings that doesn't exist, except the state folder, which is created."""
    lines = []
    for name, field in type(settings).model_fields.items():
        path, expected = getattr(settings, name), extra(field).get("exists")
        if expected and isinstance(path, Path) and not _LEADS[expected](path):
            lines.append(f"{spellings(name)}: got '{path}', expected {expected} that exists")
    return lines
