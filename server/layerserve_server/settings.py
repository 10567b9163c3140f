"""The settings of a server: flags, environment and a TOML file are three spellings of one object."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    CliPositionalArg,
    CliSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from layerserve_server.environment import PREFIX, of_kubernetes, unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MIB = 1024 * 1024
GIB = 1024 * MIB


class SettingsError(Exception):
    """A setting is wrong. The text has one line for each: its three spellings, what it is set to, what is expected."""


class Settings(BaseSettings):
    """Everything that can be set. A flag wins over the environment, the environment over the file."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True, validate_default=True
    )

    path: CliPositionalArg[Path] = Field(
        default=Path("models"),
        description="Repository folder (NAME/VERSION/model.keras, or NAME.keras), or one model file.",
    )
    config: Path | None = Field(default=None, description="TOML file with settings, named as here with underscores.")
    state: Path | None = Field(
        default=None,
        description="Folder for training runs and, where PATH is one file, for the versions that training publishes. "
        "Default: '.layerserve' in the repository or beside the file.",
    )
    probe_files: bool = Field(
        default=True,
        description="Open each model file in a process of its own first, so that one that crashes or hangs HDF5 harms "
        "nothing; costs about half a second a load.",
    )
    plugins: str = Field(
        default="",
        description="Python modules with layers of your own (layergraph.plugins), separated by commas; installed "
        "packages that have them are found by themselves.",
    )

    host: str = Field(default="0.0.0.0", description="Address to listen on.")
    grpc_port: int = Field(default=8500, ge=0, le=65535, description="Port for gRPC; 0 takes any free one.")
    metrics_port: int = Field(
        default=8002,
        ge=-1,
        le=65535,
        description="Port for Prometheus metrics over HTTP; 0 takes any free one, -1 none.",
    )
    transport: Literal["grpcio", "native"] = Field(
        default="grpcio",
        description="What carries calls. 'native' (extra 'fast') answers several times as many requests a second of "
        "small models, and has no TLS.",
    )
    tls_certificate: Path | None = Field(default=None, description="PEM file of the server's certificate chain.")
    tls_key: Path | None = Field(default=None, description="PEM file of the certificate's private key.")
    reflection: bool = Field(default=True, description="Answer gRPC server reflection, as grpcurl uses it.")
    max_message_bytes: int = Field(
        default=256 * MIB, ge=1024, le=2**31 - 1, description="Largest message taken, decompressed, in bytes."
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Processes that answer Predict on the one port, with the models' weights in memory once. A "
        "connection stays with the process that took it; streams, training and all else are the first one's.",
    )
    max_buffered_bytes: int = Field(
        default=0,
        ge=0,
        description="Maximum memory for requests, messages on their way and replies not yet taken, in bytes; more gets "
        "RESOURCE_EXHAUSTED. 0 takes a quarter of the container's or the machine's memory.",
    )
    rpc_threads: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="Threads for unary calls other than Predict, and for streams' work.",
    )
    max_streams: int = Field(
        default=1024,
        ge=1,
        le=65536,
        description="Maximum number of open streams (training, watching, downloading, PredictStream).",
    )
    max_peer_streams: int = Field(
        default=128, ge=1, le=65536, description="Maximum number of open streams of one client address."
    )
    max_calls: int = Field(
        default=4096, ge=8, le=1_000_000, description="Maximum number of open unary calls; more get RESOURCE_EXHAUSTED."
    )
    max_connections: int = Field(default=4096, ge=1, le=1_000_000, description="Maximum number of connections.")
    max_peer_connections: int = Field(
        default=1024,
        ge=1,
        le=1_000_000,
        description="Maximum number of connections of one client address; beyond it those are closed that have been "
        "silent longest. Linux only.",
    )
    max_connection_calls: int = Field(
        default=1024,
        ge=1,
        le=1_000_000,
        description="Maximum number of open calls of one connection; further ones wait at the client.",
    )
    max_resets_per_second: int = Field(
        default=500,
        ge=1,
        le=1_000_000,
        description="Maximum number of calls that one connection may cancel in a second before it is closed ('grpcio' "
        "only: 'native' has a limit of its own, which counts deadlines that pass too).",
    )
    stream_idle_seconds: float = Field(
        default=300.0,
        gt=0,
        le=86400,
        description="Time that a stream may wait for its client's next message, and a request for its last byte, in "
        "seconds.",
    )
    stalled_seconds: float = Field(
        default=30.0, gt=0, le=86400, description="Time that a client may take nothing of a reply, in seconds."
    )
    handshake_seconds: float = Field(
        default=20.0,
        gt=0,
        le=3600,
        description="Time that a new connection has to begin HTTP/2, in seconds.",
    )
    connection_idle_seconds: float = Field(
        default=3600.0,
        gt=0,
        le=1_000_000,
        description="Time after which a connection without calls is closed, in seconds ('grpcio' only).",
    )

    max_batch_rows: int = Field(default=64, ge=1, description="Most rows that one execution joins.")
    max_queue_rows: int = Field(
        default=4096, ge=1, description="Most rows that wait for one version; what doesn't fit gets RESOURCE_EXHAUSTED."
    )
    pad_sequences: str = Field(
        default="",
        description="Models, by names or patterns such as 'text-*' separated by commas, whose requests run in one "
        "batch although their sequences differ in length: shorter ones are padded at the end. A model whose masks "
        "don't make that exact is refused. Elsewhere requests of the same shape run together.",
    )
    compute_threads: int = Field(
        default=0, ge=0, le=1024, description="Threads that one execution uses; 0 takes one a core."
    )

    engine: Literal["auto", "eager", "cuda", "onnxruntime", "torchscript", "openvino", "inductor"] = Field(
        default="auto",
        description="What computes predictions. 'auto' times the installed engines on each model, checks their numbers "
        "and takes the fastest for each batch size; a name pins one, and models that it can't run are refused.",
    )
    precision: Literal["float32", "bfloat16", "float16", "int8", "tf32"] = Field(
        default="float32",
        description="What models of float32 compute in, where the golden.npz beside them allows it: its tolerances "
        "must hold. int8 needs the extra 'fast', tf32 a GPU, the others a GPU or 'openvino'.",
    )
    tuning_seconds: float = Field(
        default=10.0,
        ge=0,
        le=3600,
        description="Seconds that 'auto' builds and times engines for a version, once it serves; what would end later "
        "is left out. 0 leaves torch ('eager').",
    )
    tuning_max_bytes: int = Field(
        default=512 * MIB,
        ge=0,
        description="Largest model, in bytes of weights, that 'auto' gives to other engines: they hold a second copy.",
    )

    poll_seconds: float = Field(
        default=1.0, ge=0.05, le=3600, description="Time between two looks at the repository, in seconds."
    )
    max_old_versions: int = Field(
        default=2, ge=0, description="Versions besides the newest that stay loaded after a request named them."
    )

    training_slots: int = Field(default=1, ge=0, le=64, description="Training runs at once; 0 refuses training.")
    max_queued_runs: int = Field(default=16, ge=0, description="Training runs that may wait for a slot.")
    warm_training: bool = Field(
        default=True,
        description="Keep a process that has imported torch, and fork runs and their rehearsals from it. Without, it "
        "starts with the first run, and ends after fifteen minutes without one.",
    )
    rehearsal_seconds: float = Field(
        default=20.0,
        ge=1,
        le=3600,
        description="Time that a training request may compute for when it is tried with two rows, in seconds; what "
        "takes longer is refused.",
    )
    rehearsal_bytes: int = Field(
        default=8 * GIB,
        ge=64 * MIB,
        description="Memory that it may take meanwhile beside its weights, in bytes, and three quarters of what is "
        "available at most. A download that is converted may take as much.",
    )
    training_threads: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Threads that a training run uses, all its workers together; 0 takes half of the cores.",
    )
    training_device: str = Field(
        default="cpu",
        pattern=r"^(cpu|cuda(:\d+)?)$",
        description="What training runs compute on: 'cpu', or a GPU: 'cuda', 'cuda:1'.",
    )
    max_workers: int = Field(
        default=1, ge=1, le=1024, description="Most processes that one training run may be shared out between."
    )
    training_nice: int = Field(
        default=10,
        ge=0,
        le=19,
        description="How far training stands back behind serving (nice); unless 0, it also rests while the server "
        "needs all cores.",
    )
    training_resume: Literal["auto", "manual"] = Field(
        default="auto",
        description="What becomes of runs that a stop of the server interrupted: 'auto' goes on with them at the next "
        "start, 'manual' waits for ResumeRun.",
    )
    checkpoint_seconds: float = Field(
        default=60.0, ge=0, description="Time between two checkpoints of a training run, in seconds; 0 is each step."
    )
    data_root: Path | None = Field(
        default=None,
        description="Folder from which requests may have data files read (.npy, .npz, .parquet). Default: none are.",
    )
    max_run_bytes: int = Field(
        default=4 * GIB, ge=1, description="Most data that one training run keeps in its folder, in bytes."
    )
    max_written_bytes: int = Field(
        default=16 * GIB,
        ge=1024,
        description="Most that one training run writes into its folder beside data and checkpoints, in bytes: files of "
        "callbacks, events, and what it prints. A run that writes more fails.",
    )
    max_kept_runs: int = Field(default=200, ge=1, description="Ended training runs that stay listed.")
    cancel_grace_seconds: float = Field(
        default=10.0, ge=0, description="Time a cancelled run has to end by itself before it is killed, in seconds."
    )

    drain_seconds: float = Field(
        default=5.0, ge=0, description="After SIGTERM, time to go on accepting calls while health says NOT_SERVING."
    )
    grace_seconds: float = Field(
        default=30.0, ge=0, description="After that, time for calls under way to finish, in seconds."
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")
    log_format: Literal["text", "json"] = Field(default="text", description="How a log line looks.")
    check_config: bool = Field(default=False, description="Print the settings in force, and exit.")

    @field_validator("path", "state", "data_root", "config", "tls_certificate", "tls_key")
    @classmethod
    def _expand_user(cls, value: Path | None) -> Path | None:
        return value.expanduser() if value is not None else None

    @model_validator(mode="after")
    def _pair_tls(self) -> Settings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together: got one of them")
        if self.transport == "native" and self.tls_certificate is not None:
            raise ValueError("transport 'native' has no TLS: take 'grpcio', or end TLS in front of it")
        return self

    @model_validator(mode="after")
    def _workers_are_processors(self) -> Settings:
        if self.training_device != "cpu" and self.max_workers > 1:
            raise ValueError(
                f"training_device is '{self.training_device}' and max_workers {self.max_workers}: a run with several "
                "workers trains on processors"
            )
        return self

    def pads(self, model: str) -> bool:
        """Whether sequences of a model are padded."""
        return any(fnmatchcase(model, pattern.strip()) for pattern in self.pad_sequences.split(","))

    @property
    def state_folder(self) -> Path:
        """Where runs, and versions published for a single file, are kept."""
        if self.state is not None:
            return self.state
        return (self.path.parent if self.path.is_file() else self.path) / ".layerserve"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leaves out .env files and secret folders: three spellings are enough. `read_settings` adds flags and file."""
        return init_settings, own_variables(env_settings)


def read_settings(argv: Sequence[str]) -> Settings:
    """Reads the settings in force from command-line arguments, environment and file.

    Raises SettingsError for a value that is wrong and for a variable that is no setting, and SystemExit (as argparse
    does) for an unknown flag and `--help`.
    """
    check_names(os.environ)
    path = config_path(argv, os.environ)
    values = read_file(path) if path else {}

    class Command(Settings):
        """Serve Keras models over gRPC."""

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            flags = CliSettingsSource[Any](
                settings_cls,
                cli_prog_name="layerserve serve",
                cli_parse_args=list(argv),
                cli_kebab_case=True,
                cli_implicit_flags=True,
                cli_hide_none_type=True,
                cli_avoid_json=True,
            )
            return flags, own_variables(env_settings), InitSettingsSource(settings_cls, values)

    try:
        found = Command()
        return Settings.model_construct(_fields_set=set(found.model_fields_set), **dict(found))
    except ValidationError as error:
        raise SettingsError("\n".join(describe(entry) for entry in error.errors())) from error


def own_variables(source: PydanticBaseSettingsSource) -> PydanticBaseSettingsSource:
    """The environment without what Kubernetes has set under the name of a setting, such as LAYERSERVE_METRICS_PORT."""
    if isinstance(source, EnvSettingsSource):
        found = source.env_vars.items()
        source.env_vars = {name: value for name, value in found if not of_kubernetes(name, value)}
    return source


def check_names(environment: Mapping[str, str]) -> None:
    """Raises SettingsError for variables that are no settings, though they begin as these do."""
    names = [PREFIX + name.upper() for name in Settings.model_fields]
    if wrong := unknown(environment, Settings.model_fields):
        raise SettingsError("\n".join(f"environment: unknown setting '{name}'{near(name, names)}" for name in wrong))


def near(name: str, names: Iterable[str]) -> str:
    """What is said of a name that there isn't: the nearest one that there is."""
    found = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean '{found[0]}'?" if found else ""


def config_path(argv: Sequence[str], environment: Mapping[str, str]) -> Path | None:
    """The settings file that flags or environment name: it must be read before the rest is."""
    named = spelled("config", argv, environment)
    return Path(named).expanduser() if named else None


def json_logs(argv: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether logs are to be JSON: asked before the settings are read, as what is wrong in them is told so too."""
    wanted = spelled("log_format", argv, environment)
    path = config_path(argv, environment)
    if wanted is None and path is not None:
        with suppress(SettingsError):
            wanted = read_file(path).get("log_format")
    return wanted == "json"


def spelled(name: str, argv: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """A setting as flags or environment spell it, unread; None where neither names it."""
    flag = "--" + name.replace("_", "-")
    for index, argument in enumerate(argv):
        if argument == flag and index + 1 < len(argv):
            return argv[index + 1]
        if argument.startswith(flag + "="):
            return argument.removeprefix(flag + "=")
    return environment.get(PREFIX + name.upper()) or None


def read_file(path: Path) -> dict[str, Any]:
    """Reads a TOML file of settings. Raises SettingsError for one that can't be read or has unknown names."""
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"settings file {path}: {error}") from error
    names = set(Settings.model_fields) - {"config", "check_config"}
    for key in values:
        if key not in names:
            raise SettingsError(f"settings file {path}: unknown setting '{key}'{near(key, names)}")
    return values


def describe(entry: Mapping[str, Any]) -> str:
    """One line for one wrong setting, with all its spellings, as the user may have used any of them."""
    if not entry["loc"]:
        return str(entry["msg"]).removeprefix("Value error, ")
    expected = str(entry["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{spellings(str(entry['loc'][0]))}: got {entry['input']!r}, expected {expected}"


def spellings(name: str) -> str:
    """A setting by all of its names."""
    flag = "PATH" if name == "path" else "--" + name.replace("_", "-")
    return f"{flag} ({PREFIX}{name.upper()}, '{name}' in the file)"


def missing_paths(settings: Settings) -> list[str]:
    """A line for each path in the settings that isn't there. The folder of the state is none: the server makes it."""
    expected = {
        "path": ("a folder or a model file", Path.exists),
        "data_root": ("a folder", Path.is_dir),
        "tls_certificate": ("a file", Path.is_file),
        "tls_key": ("a file", Path.is_file),
    }
    return [
        f"{spellings(name)}: got '{path}', expected {what} that exists"
        for name, (what, there) in expected.items()
        if (path := getattr(settings, name)) is not None and not there(path)
    ]


def in_force(settings: Settings) -> str:
    """The settings as TOML text, with their descriptions: what `--check-config` prints, and a file to start from."""
    lines = []
    for name, field in Settings.model_fields.items():
        if name in ("config", "check_config"):
            continue
        lines.append(f"# {field.description}")
        value = getattr(settings, name)
        lines.append(f"# {name} =" if value is None else f"{name} = {toml_value(value)}")
    return "\n".join(lines)


def toml_value(value: object) -> str:
    """A setting's value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
