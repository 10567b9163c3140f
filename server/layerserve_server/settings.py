"""The settings of a server: the table of fields, what values go together, and what follows from them."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidatorFunctionWrapHandler, field_validator, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from layerserve_server.access.rights import RIGHTS, Right, read_rights
from layerserve_server.addresses import expected, folder_name, is_address
from layerserve_server.disk import STATE_FOLDER
from layerserve_server.environment import PREFIX, of_kubernetes
from layerserve_server.setting_fields import DRAIN_SECONDS, SettingFields

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

    def needed_modules(self) -> Iterator[tuple[str, Sequence[str]]]:
        """Yields the settings that need packages which may be missing, each with their modules."""
        if self.http_port >= 0:
            yield "http_port", ("uvicorn", "httptools", "starlette", "orjson")
        if self.transport == "native":
            yield "transport", ("pygrpc_native",)
        if self.engine == "onnxruntime":
            yield "engine", ("onnxruntime", "onnx")
        if self.engine == "openvino":
            yield "engine", ("openvino", "onnx")
        if self.training_backend == "kubernetes":
            yield "training_backend", ("lightkube",)
        for kind in sorted({sink.partition(":")[0] for sink in self.sinks}):
            yield "run_sinks", (kind,)

    @field_validator("path", mode="wrap")
    @classmethod
    def _path_or_address(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Path | str:
        if isinstance(value, str) and is_address(value):
            if wanted := expected(value):
                raise ValueError(wanted)
            return value.rstrip("/")
        return Path(handler(value)).expanduser()

    @field_validator("state", "data_root", "config", "tls_certificate", "tls_key", "tls_client_ca", "tokens")
    @classmethod
    def _expand_user(cls, value: Path | None) -> Path | None:
        return value.expanduser() if value is not None else None

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

    @field_validator("run_sinks")
    @classmethod
    def _known_sinks(cls, value: str) -> str:
        for one in filter(None, map(str.strip, value.split(","))):
            kind, _, where = one.partition(":")
            if kind not in ("mlflow", "wandb") or (kind == "mlflow" and not where):
                raise ValueError(f"got {one!r}, expected mlflow:URI or wandb:PROJECT")
        return value

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
    def _cluster_has_a_template(self) -> Settings:
        if (self.training_backend == "kubernetes") != (self.training_job is not None):
            raise ValueError(
                f"training_job: got {self.training_job} with training_backend '{self.training_backend}', expected a "
                "manifest for 'kubernetes' and none otherwise"
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
    def sinks(self) -> tuple[str, ...]:
        """The settings in `run_sinks`."""
        return tuple(filter(None, map(str.strip, self.run_sinks.split(","))))

    @property
    def host_names(self) -> tuple[str, ...]:
        """Names in `http_hosts`."""
        return tuple(filter(None, map(str.strip, self.http_hosts.split(","))))

    @property
    def longest_drain_seconds(self) -> float:
        """Maximum time for which the server drains, in seconds."""
        return DRAIN_SECONDS if self.drain_seconds is None else self.drain_seconds

    def loads(self, model: str) -> bool:
        """Whether a model is loaded at the start."""
        named = {name.strip() for name in self.load.split(",")}
        return self.model_control != "explicit" or model in named or "*" in named

    def pads(self, model: str) -> bool:
        """Whether sequences of this model are padded."""
        return any(fnmatchcase(model, pattern.strip()) for pattern in self.pad_sequences.split(","))

    @property
    def anonymous_rights(self) -> frozenset[Right] | None:
        """Rights of callers without token and certificate; None if the setting is unset."""
        if not self.allow_anonymous:
            return None
        return frozenset() if self.allow_anonymous == NONE else read_rights(self.allow_anonymous)

    @property
    def address(self) -> str:
        """Address of the store with the models; empty if they are in a folder of this machine."""
        return self.path if isinstance(self.path, str) and is_address(self.path) else ""

    @property
    def root(self) -> Path:
        """Folder of the models, or the single model file; for an address the folder of its copies."""
        return self.mirror_folder / "models" if self.address else Path(self.path)

    @property
    def mirror_folder(self) -> Path:
        """Folder of what is kept of the store."""
        return self.state_folder / "remote" / folder_name(self.address)

    @property
    def state_folder(self) -> Path:
        """Folder of training runs, and of versions published for a single model file."""
        if self.state is not None:
            return self.state
        if self.address:
            home = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
            return home / "layerserve" / folder_name(self.address)
        path = Path(self.path)
        return (path.parent if path.is_file() else path) / STATE_FOLDER

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


def missing_paths(settings: Settings) -> list[str]:
    """Returns an error line per path in the settings that doesn't exist, except the state folder, which is created."""
    kinds = {
        "path": ("a folder or a model file", Path.exists),
        "data_root": ("a folder", Path.is_dir),
        "tls_certificate": ("a file", Path.is_file),
        "tls_key": ("a file", Path.is_file),
        "tls_client_ca": ("a file", Path.is_file),
        "tokens": ("a file", Path.is_file),
        "training_job": ("a file", Path.is_file),
    }
    return [
        f"{spellings(name)}: got '{path}', expected {what} that exists"
        for name, (what, there) in kinds.items()
        if (path := getattr(settings, name)) is not None and path != settings.address and not there(path)
    ]
