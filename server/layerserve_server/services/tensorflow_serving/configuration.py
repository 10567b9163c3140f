"""What HandleReloadConfigRequest can do here: it moves labels. All else of a configuration must be as it is."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from typing import NamedTuple

from layerserve_server.access.caller import Caller
from layerserve_server.errors import InvalidRequestError, RefusedChangeError, safe_text
from layerserve_server.protocols.tensorflow_serving.model_service_pb2 import (
    FileSystemStoragePathSourceConfig,
    ModelConfig,
    ReloadConfigRequest,
)
from layerserve_server.repository.management import Manager, check_label
from layerserve_server.repository.model_settings import ModelSettings
from layerserve_server.repository.repository import Repository

PLATFORM = "tensorflow"


class Move(NamedTuple):
    """A label of a model to move to a version; to remove if the version is None."""

    model: str
    label: str
    version: int | None


class Configuration:
    """Compares requested configurations with the repository, and moves labels."""

    def __init__(self, repository: Repository, manager: Manager, path: str) -> None:
        """`path` is the folder or address of the models, as the server was started with it."""
        self._repository = repository
        self._manager = manager
        self._path = path

    def apply(self, request: ReloadConfigRequest, caller: Caller) -> list[str]:
        """Moves the labels of the models in a request. Returns the processes in which they aren't moved yet.

        Everything is checked first. Raises InvalidRequestError, RefusedChangeError for what can't be changed, and as
        `Manager.set_label`, `Repository.describe_one` and `Caller.check_model` do.
        """
        if request.config.WhichOneof("config") != "model_config_list":
            raise InvalidRequestError("config: got none or a custom_model_config, expected a model_config_list")
        if request.metric_names:
            raise InvalidRequestError("metric_names: got names, expected none; /metrics has all metrics")
        configs = request.config.model_config_list.config
        names = [config.name for config in configs]
        for config in configs:
            caller.check_model("manage", config.name)
        for name in names:
            if names.count(name) > 1:
                raise InvalidRequestError(f"model '{safe_text(name, 80)}': configured twice, expected once")
        moves = [move for config in configs for move in self._moves(config)]
        self._check_complete(names, caller)
        lagging: dict[str, None] = {}
        for move in moves:
            if move.version is None:
                change = self._manager.remove_label(move.model, move.label, caller.name)
            else:
                change = self._manager.set_label(move.model, move.label, move.version, caller.name)
            lagging.update(dict.fromkeys(change.lagging))
        return list(lagging)

    def _moves(self, config: ModelConfig) -> Iterator[Move]:
        """Yields the moves of a model's labels. Raises as `apply` does."""
        model = f"model '{safe_text(config.name, 80)}'"
        if not config.name:
            raise InvalidRequestError("config: got a model without a name, expected one")
        self._repository.describe_one(config.name)
        if config.base_path and not self._is_folder(config.name, config.base_path):
            raise RefusedChangeError(
                f"{model}: base_path: got '{safe_text(config.base_path, 200)}', expected none or the model's folder in "
                "the server's repository; UploadModel adds versions from elsewhere"
            )
        if config.model_platform not in ("", PLATFORM):
            raise InvalidRequestError(
                f"{model}: model_platform: got '{safe_text(config.model_platform, 80)}', expected '{PLATFORM}'"
            )
        if config.HasField("logging_config"):
            raise RefusedChangeError(f"{model}: logging_config: got one, expected none")
        if config.HasField("model_version_policy"):
            got = _policy(config.model_version_policy)
            expected = _policy_of(self._repository.settings(config.name))
            if got not in ("", expected):
                raise RefusedChangeError(
                    f"{model}: model_version_policy: got {got}, expected {expected}, as in the model's settings; "
                    "change version_policy in its layerserve.toml"
                )
        labels = self._repository.labels(config.name)
        for label, version in sorted(config.version_labels.items()):
            check_label(label)
            self._repository.describe_one(config.name, version)
            if labels.get(label) != version:
                yield Move(config.name, label, version)
        # A configuration without labels doesn't speak of them.
        if config.version_labels:
            for label in sorted(set(labels) - set(config.version_labels)):
                yield Move(config.name, label, None)

    def _is_folder(self, name: str, base_path: str) -> bool:
        folder = self._repository.folder(name)
        folders = (f"{self._path}/{name}", str(folder), os.path.abspath(folder))
        return posixpath.normpath(base_path) in map(posixpath.normpath, folders)

    def _check_complete(self, names: list[str], caller: Caller) -> None:
        """Raises RefusedChangeError if served models are missing, which TensorFlow Serving would unload."""
        served = {one.name for one in self._repository.describe() if caller.may("manage", one.name)}
        if missing := sorted(served - set(names)):
            listed = safe_text(", ".join(missing), 400)
            raise RefusedChangeError(
                f"config: got no entry for {listed}, expected one for each model; UnloadModel unloads a model"
            )


def _policy(policy: FileSystemStoragePathSourceConfig.ServableVersionPolicy) -> str:
    """Returns a policy as a text; empty if none is chosen."""
    chosen = policy.WhichOneof("policy_choice")
    if chosen == "latest":
        return f"latest {policy.latest.num_versions or 1}"
    if chosen == "specific":
        return f"specific {', '.join(map(str, sorted(set(policy.specific.versions))))}"
    return chosen or ""


def _policy_of(settings: ModelSettings) -> str:
    if settings.version_policy == "latest":
        return f"latest {settings.latest_versions}"
    if settings.version_policy == "specific":
        return f"specific {', '.join(map(str, sorted(set(settings.specific_versions))))}"
    return settings.version_policy
