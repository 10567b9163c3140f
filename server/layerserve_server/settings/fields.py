"""The table of all settings of a server, with their defaults, limits and descriptions. `settings` has their rules."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from layerserve.cli.variables import PREFIX
from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from layerserve_server.access.rights import RIGHTS

MIB = 1024 * 1024
GIB = 1024 * MIB
#: Default of `drain_seconds`.
DRAIN_SECONDS = 5.0

#: Values of settings that models have, too (see repository.model_settings).
Engine: TypeAlias = Literal["auto", "eager", "cuda", "onnxruntime", "torchscript", "openvino", "inductor"]
Precision: TypeAlias = Literal["float32", "bfloat16", "float16", "int8", "tf32"]


_DEVICE = re.compile(r"^(cpu|cuda(:\d+)?)$")


def _check_device(name: str) -> str:
    if not _DEVICE.match(name):
        raise ValueError("'cpu', 'cuda' or 'cuda:N', N the number of a GPU")
    return name


class SettingFields(BaseSettings):
    """All settings, each with what is documented of it.

    A field with a `section` begins one. Those that are `basic` are in `serve --help`, the others in `--help-all`. What
    `exists` is what a path must lead to.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True, validate_default=True, defer_build=True
    )

    path: Path | str = Field(
        default=Path("models"),
        description=(
            "Repository folder (NAME/VERSION/model.keras or NAME.keras), or a single model file, or an address that an "
            "extension reads."
        ),
        json_schema_extra={"section": "Models", "basic": True, "exists": "a folder or a model file"},
    )
    state: Path | None = Field(
        default=None,
        description=(
            "Folder for training runs, for what was read of model files, and, if PATH is a single file, for the "
            "versions that training publishes."
        ),
        json_schema_extra={
            "basic": True,
            "unset": "'.layerserve' in the repository or next to the model file",
        },
    )
    probe_files: bool = Field(
        default=True,
        description=(
            "Read model files in a separate, sandboxed process, so that a file that crashes, hangs or takes over the "
            "HDF5 parser doesn't affect the server. What it has read is kept in the state folder: it takes as much "
            "space as the models' weights, is mapped by all processes, and makes later loads several times as fast."
        ),
    )
    plugins: str = Field(
        default="",
        description=(
            "Comma-separated Python modules that define custom layers (see layergraph.plugins). Installed "
            "packages that declare such modules are found automatically."
        ),
        json_schema_extra={"basic": True, "unset": "none"},
    )

    host: str = Field(
        default="127.0.0.1",
        description=(
            "Address to listen on. '0.0.0.0' or '::' is all of the machine's addresses. Any other address than the "
            "loopback requires tokens, client certificates or allow_anonymous."
        ),
        json_schema_extra={"section": "Network", "basic": True},
    )
    grpc_port: int = Field(
        default=8500,
        ge=0,
        le=65535,
        description="Port for gRPC. 0 picks a free port.",
        json_schema_extra={"basic": True},
    )
    metrics_port: int = Field(
        default=8002,
        ge=-1,
        le=65535,
        description="Port for Prometheus metrics over HTTP. 0 picks a free port, -1 disables metrics.",
        json_schema_extra={"basic": True},
    )
    http_port: int = Field(
        default=-1,
        ge=-1,
        le=65535,
        description=(
            "Port for HTTP: the REST form of the Open Inference Protocol, and the paths of extensions. "
            "0 picks a free port, -1 disables HTTP."
        ),
        json_schema_extra={"basic": True},
    )
    http_hosts: str = Field(
        default="",
        description=(
            "Comma-separated list of names under which browsers reach the port for HTTP, such as 'models.example.com'. "
            "Addresses and 'localhost' are always accepted, and from a caller with a token any name: one that isn't in "
            "the list may be another site's."
        ),
        json_schema_extra={"unset": "none"},
    )
    server_name: str = Field(
        default="layerserve",
        min_length=1,
        max_length=100,
        description=(
            "Name in the server's metadata of the Open Inference Protocol. Programs for Triton may expect 'triton'."
        ),
    )
    transport: Literal["grpcio", "native"] = Field(
        default="grpcio",
        description=(
            "gRPC implementation. 'native' serves 1.6 to 2.5 times as many requests per second for small models, but "
            "doesn't support TLS."
        ),
        json_schema_extra={"basic": True},
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=256,
        description=(
            "Number of processes that answer predictions on the same ports. They share the memory of the models' "
            "weights. A connection stays with the process that accepted it; streams, training and all other "
            "calls are handled by the first process."
        ),
        json_schema_extra={"basic": True},
    )
    max_message_bytes: int = Field(
        default=256 * MIB,
        ge=1024,
        le=2**31 - 1,
        description="Maximum size of a request message after decompression, in bytes.",
        json_schema_extra={"basic": True},
    )

    tls_certificate: Path | None = Field(
        default=None,
        description="PEM file with the server's certificate chain.",
        json_schema_extra={"section": "Access", "basic": True, "unset": "no TLS", "exists": "a file"},
    )
    tls_key: Path | None = Field(
        default=None,
        description="PEM file with the certificate's private key.",
        json_schema_extra={"basic": True, "unset": "no TLS", "exists": "a file"},
    )
    tls_client_ca: Path | None = Field(
        default=None,
        description=(
            "PEM file with the authorities of client certificates. Clients must present one (mutual TLS). It gives "
            "all rights, unless a tokens file gives rights by its name."
        ),
        json_schema_extra={"basic": True, "unset": "clients need no certificate", "exists": "a file"},
    )
    tokens: Path | None = Field(
        default=None,
        description=(
            "TOML file with the tokens of callers, their rights, models and quotas. It is read again when it changes. "
            "See docs/access.md."
        ),
        json_schema_extra={"basic": True, "unset": "no tokens", "exists": "a file"},
    )
    allow_anonymous: str = Field(
        default="",
        description=(
            f"Comma-separated rights of callers without token and certificate: {', '.join(RIGHTS)}, or 'none'. Health "
            "is open to all."
        ),
        json_schema_extra={"basic": True, "unset": "none; all on the loopback without tokens and client certificates"},
    )

    max_buffered_bytes: int = Field(
        default=0,
        ge=0,
        description=(
            "Maximum memory for requests, messages in transit and unread replies, in bytes; each of several "
            "processes (workers) has an equal part. Further requests get RESOURCE_EXHAUSTED. 0 uses a quarter of the "
            "memory of the container or machine."
        ),
        json_schema_extra={"section": "Connections"},
    )
    rpc_threads: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="Number of threads for unary calls other than Predict, and for blocking work of streams.",
    )
    max_streams: int = Field(
        default=1024,
        ge=1,
        le=65536,
        description="Maximum number of open streams (training, watching, downloading, PredictStream).",
    )
    max_peer_streams: int = Field(
        default=128,
        ge=1,
        le=65536,
        description=(
            "Maximum number of open streams per client address; the addresses of a public IPv6 network (/64) count as "
            "one. Up to three quarters may be watches of health."
        ),
    )
    max_calls: int = Field(
        default=4096,
        ge=8,
        le=1_000_000,
        description="Maximum number of open unary calls. Further calls get RESOURCE_EXHAUSTED.",
    )
    max_connections: int = Field(default=4096, ge=1, le=1_000_000, description="Maximum number of connections.")
    max_peer_connections: int = Field(
        default=1024,
        ge=1,
        le=1_000_000,
        description=(
            "Maximum number of connections per client address, counted as in max_peer_streams. If it is exceeded, the "
            "connections that have been idle longest are closed. Linux only."
        ),
    )
    max_connection_calls: int = Field(
        default=1024,
        ge=1,
        le=1_000_000,
        description="Maximum number of open calls per connection. Further calls wait at the client.",
    )
    max_resets_per_second: int = Field(
        default=500,
        ge=1,
        le=1_000_000,
        description=(
            "Maximum number of calls that a connection may cancel per second before it is closed. 'grpcio' "
            "only; 'native' has a limit of its own, which also counts expired deadlines."
        ),
    )
    stream_idle_seconds: float = Field(
        default=300.0,
        gt=0,
        le=86400,
        description=(
            "Timeout for the client's next message on a stream, and for receiving a complete request, in seconds."
        ),
    )
    stalled_seconds: float = Field(
        default=30.0, gt=0, le=86400, description="Timeout for a client that doesn't read its reply, in seconds."
    )
    handshake_seconds: float = Field(
        default=20.0,
        gt=0,
        le=3600,
        description="Timeout for the HTTP/2 handshake of a new connection, in seconds.",
    )
    connection_idle_seconds: float = Field(
        default=3600.0,
        gt=0,
        le=1_000_000,
        description="Time after which a connection without calls is closed, in seconds. 'grpcio' only.",
    )
    keepalive_seconds: float = Field(
        default=60.0,
        ge=0.1,
        le=1_000_000,
        description="Time without data after which a connection is pinged, in seconds.",
    )
    keepalive_timeout_seconds: float = Field(
        default=20.0,
        ge=0.1,
        le=3600,
        description="Time for a client to answer the ping before its connection is closed, in seconds.",
    )
    max_connection_age_seconds: float = Field(
        default=0.0,
        ge=0,
        le=1_000_000,
        description=(
            "Age at which a connection is closed to new calls, in seconds (plus or minus 10 %), so that clients "
            "connect again and find replicas that were added. 0 means unlimited. 'grpcio' only."
        ),
    )
    max_connection_age_grace_seconds: float = Field(
        default=0.0,
        ge=0,
        le=1_000_000,
        description=(
            "Time after that for the connection's open calls and streams to finish, in seconds. 0 means unlimited: "
            "streams of training runs and of predictions go on to their end."
        ),
    )

    max_batch_rows: int = Field(
        default=64, ge=1, description="Maximum number of rows per batch.", json_schema_extra={"section": "Predictions"}
    )
    max_queue_rows: int = Field(
        default=4096,
        ge=1,
        description="Maximum number of rows in the queue of a version. Further requests get RESOURCE_EXHAUSTED.",
    )
    pad_sequences: str = Field(
        default="",
        description=(
            "Comma-separated names or patterns (such as 'text-*') of models whose requests are batched even "
            "if their sequences differ in length, by padding shorter ones at the end. Models whose masks "
            "don't make the result exact are rejected. Requests to other models are batched only if their "
            "shapes are equal."
        ),
        json_schema_extra={"unset": "none"},
    )
    compute_threads: int = Field(
        default=0, ge=0, le=1024, description="Number of threads per execution. 0 uses one thread per core."
    )
    engine: Engine = Field(
        default="auto",
        description=(
            "Engine that computes predictions. 'auto' times the installed engines on each model, verifies "
            "their outputs and uses the fastest one for each batch size. Any other value selects that engine "
            "for all models; models that it can't run are rejected."
        ),
        json_schema_extra={"basic": True},
    )
    precision: Precision = Field(
        default="float32",
        description=(
            "Precision in which float32 models compute. It applies only to models with a golden.npz file, as "
            "long as its tolerances are met. int8 requires onnx and onnxruntime, tf32 a GPU, the others a GPU or "
            "'openvino'."
        ),
        json_schema_extra={"basic": True},
    )
    tuning_seconds: float = Field(
        default=10.0,
        ge=0,
        le=3600,
        description=(
            "Time to build and time engines for a version once it serves, in seconds ('auto' only). Engines "
            "that would take longer are skipped. Waits while training runs compute. 0 disables tuning and uses "
            "PyTorch ('eager')."
        ),
    )
    tuning_max_bytes: int = Field(
        default=512 * MIB,
        ge=0,
        description=(
            "Maximum size of a model's weights for which 'auto' tries other engines, in bytes. Each engine "
            "holds a second copy of the weights."
        ),
    )

    model_control: Literal["none", "poll", "explicit"] = Field(
        default="poll",
        description=(
            "What changes in the repository while the server runs. 'poll' follows the files; 'none' reads them at the "
            "start only; 'explicit' loads the models that LoadModel or --load names. Changes by calls of "
            "ManagementService take effect in each."
        ),
        json_schema_extra={"section": "Versions", "basic": True},
    )
    load: str = Field(
        default="",
        description=(
            "Comma-separated names of models to load at the start if model_control is 'explicit'; '*' is all of them. "
            "The flag may be given several times. A model that UnloadModel has unloaded stays unloaded."
        ),
        json_schema_extra={"basic": True, "unset": "none", "repeated": True},
    )
    poll_seconds: float = Field(
        default=1.0, ge=0.05, le=3600, description="Interval between scans of the repository, in seconds."
    )
    max_old_versions: int = Field(
        default=2,
        ge=0,
        description="Maximum number of versions other than the newest that stay loaded after a request for them.",
    )
    max_model_bytes: int = Field(
        default=0,
        ge=0,
        description=(
            "Maximum memory of loaded models, in bytes: of their weights, the engines' copies of them, and their "
            "graphs. The server is ready when it has listed its models. They are loaded when they are requested, and "
            "those that were used least recently make room. It is divided among the processes (workers). 0 is no "
            "limit: all models are loaded and stay loaded."
        ),
        json_schema_extra={"basic": True},
    )
    max_upload_bytes: int = Field(
        default=4 * GIB,
        ge=0,
        description="Maximum size of the files of an uploaded version, in bytes. 0 disables uploads.",
    )

    training_slots: int = Field(
        default=1,
        ge=0,
        le=64,
        description="Maximum number of concurrent training runs. 0 disables training.",
        json_schema_extra={"section": "Training", "basic": True},
    )
    max_queued_runs: int = Field(default=16, ge=0, description="Maximum number of training runs that wait for a slot.")
    warm_training: bool = Field(
        default=True,
        description=(
            "Keep a process that has imported PyTorch, from which training runs are forked. Otherwise it "
            "starts with the first run and ends after 5 minutes without one."
        ),
    )
    check_seconds: float = Field(
        default=20.0,
        ge=1,
        le=3600,
        description=(
            "Timeout for the trial of a training request, which runs one step with two rows before the "
            "request is accepted, in seconds. Requests that take longer are rejected."
        ),
    )
    check_bytes: int = Field(
        default=8 * GIB,
        ge=64 * MIB,
        description=(
            "Maximum memory for that trial in addition to the model's weights, in bytes; never more than "
            "three quarters of the available memory. The same limit applies when a download is converted."
        ),
    )
    training_threads: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Number of threads per training run, for all of its workers together. 0 uses half of the cores.",
    )
    training_device: Annotated[str, AfterValidator(_check_device)] = Field(
        default="cpu",
        description="Device for training runs: 'cpu', 'cuda' or 'cuda:N'.",
        json_schema_extra={"pattern": _DEVICE.pattern, "basic": True},
    )
    max_workers: int = Field(
        default=1, ge=1, le=1024, description="Maximum number of worker processes per training run."
    )
    training_nice: int = Field(
        default=10,
        ge=0,
        le=19,
        description=(
            "Niceness of training runs, from 0 (same priority as serving) to 19. Unless 0, training also "
            "pauses while the server needs all cores."
        ),
    )
    training_resume: Literal["auto", "manual"] = Field(
        default="auto",
        description=(
            "Handling of runs that were interrupted: 'auto' resumes them at the next start of the server, or at once "
            "if only their process was killed, 'manual' waits for a ResumeRun call."
        ),
    )
    checkpoint_seconds: float = Field(
        default=60.0,
        ge=0,
        le=1_000_000,
        description="Interval between checkpoints of a training run, in seconds. 0 writes one after each step.",
    )
    data_root: Path | str | None = Field(
        default=None,
        description=(
            "Folder from which training requests may read data files (.npy, .npz, .parquet, .csv, .tsv). Or the "
            "address of a folder in a store, such as s3://BUCKET/FOLDER, from which they may read .parquet files "
            "(packages fsspec and that of the store)."
        ),
        json_schema_extra={"basic": True, "unset": "reading files is disabled", "exists": "a folder"},
    )
    max_dataset_bytes: int = Field(
        default=64 * GIB,
        ge=0,
        description=(
            "Maximum size of all datasets and unfinished uploads of datasets together, in bytes. A token may have a "
            "limit of its own."
        ),
    )
    dataset_seconds: float = Field(
        default=30 * 86400.0,
        ge=0,
        le=3650 * 86400,
        description=(
            "Time after its last use when a dataset is removed, in seconds. An upload may set a shorter one. 0 keeps "
            "datasets until they are deleted, or for the time that their uploads set."
        ),
    )
    dataset_upload_seconds: float = Field(
        default=86400.0,
        ge=1,
        le=1_000_000,
        description="Time for which an upload of a dataset that was cut is kept, so that it can go on, in seconds.",
    )
    max_run_bytes: int = Field(
        default=4 * GIB,
        ge=1,
        description=(
            "Maximum size of the data in the folder of a training run, in bytes. Uncompressed arrays and Parquet don't "
            "count, which are read where they lie."
        ),
    )
    max_written_bytes: int = Field(
        default=16 * GIB,
        ge=1024,
        description=(
            "Maximum size of everything that a training run writes except data and checkpoints, in bytes: "
            "files of callbacks, events, and console output. Runs that exceed it fail."
        ),
    )
    max_kept_runs: int = Field(
        default=200, ge=1, description="Maximum number of ended training runs of each caller that are kept."
    )
    cancel_grace_seconds: float = Field(
        default=10.0,
        ge=0,
        le=86400,
        description="Time for a cancelled training run to stop before it is killed, in seconds.",
    )

    drain_seconds: float | None = Field(
        default=None,
        ge=0,
        le=86400,
        description=(
            "Time after SIGTERM during which calls are still accepted while health reports NOT_SERVING, in seconds. "
            "Unless it is set, it is 5, and ends earlier on the loopback when no client is connected."
        ),
        json_schema_extra={"section": "Shutdown", "basic": True, "unset": "5"},
    )
    grace_seconds: float = Field(
        default=30.0, ge=0, le=86400, description="Time after that for open calls to finish, in seconds."
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Minimum log level.", json_schema_extra={"section": "Logs", "basic": True}
    )
    log_format: Literal["text", "json"] = Field(
        default="text",
        description="Format of log lines. With 'json', all other output is written as log lines too.",
        json_schema_extra={"basic": True},
    )
    access_log: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description=(
            "Share of calls for which a line is logged when they end: 1 logs all of them, 0.01 one in a hundred, "
            "chosen at random, 0 none."
        ),
    )

    config: Path | None = Field(
        default=None,
        description="TOML file with settings. Its keys are the names of the flags, with underscores.",
        json_schema_extra={"section": "Settings", "basic": True},
    )
    check_config: bool = Field(
        default=False, description="Check the settings, print them and exit.", json_schema_extra={"basic": True}
    )
