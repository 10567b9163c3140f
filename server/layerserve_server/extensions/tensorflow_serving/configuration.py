"""HandleReloadConfigRequest: what a configuration asks of the models here, as changes of the repository.

The configuration lists the models to serve, each with its version policy and labels. Models are those of the server's
repository; others can't be added by a path.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from layerserve_server.access.caller import Caller
from layerserve_server.errors import InvalidRequestError, RefusedChangeError, safe_text
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow_serving.model_service_pb2 import (
    FileSystemStoragePathSourceConfig,
    ModelConfig,
    ReloadConfigRequest,
)
from layerserve_server.repository.changes import Change
from layerserve_server.repository.management import Manager, check_label, check_labels_served
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version_policy import VersionPolicy

PLATFORM = "tensorflow"
#: Maximum number of versions that "latest" keeps, as in the model's settings.
MAX_LATEST = 1000

#: Makes a change for a caller of this name.
Step: TypeAlias = Callable[[str], Change]


class Configuration:
    """Compares requested configurations with the repository, and changes it."""

    def __init__(self, repository: Repository, manager: Manager, path: str) -> None:
        """`path` is the folder or address of the models, as the server was started with it."""
        self._repository = repository
        self._manager = manager
        self._path = path

    def apply(self, request: ReloadConfigRequest, caller: Caller) -> list[str]:
        """Serves the models of a request as it says, and unloads the others. Returns the processes that lag behind.

        Everything is checked first; a version that can't be loaded ends it where it is. Raises InvalidRequestError,
        RefusedChangeError for what can't be changed, and as the methods of `Manager`, `Catalogue.describe_one` and
        `Caller.check_model` do.
        """
        if request.config.WhichOneof("config") != "model_config_list":
            raise InvalidRequestError("config: got none or a custom_model_config, expected a model_config_list")
        if request.metric_names:
            raise InvalidRequestError("metric_names: got names, expected none; /metrics has all metrics")
        configs = request.config.model_config_list.config
        if not configs:
            raise InvalidRequestError("model_config_list: got no model, expected at least one")
        names = [config.name for config in configs]
        for config in configs:
            caller.check_model("manage", config.name)
        for name in names:
            if names.count(name) > 1:
                raise InvalidRequestError(f"model '{safe_text(name, 80)}': configured twice, expected once")
        steps = [step for config in configs for step in self._steps(config)]
        managed = {one.name for one in self._repository.catalogue.describe() if caller.may("manage", one.name)}
        left_out = managed - set(names)
        steps += [partial(self._manager.unload, name) for name in sorted(left_out) if self._is_loaded(name)]
        lagging: dict[str, None] = {}
        for step in steps:
            lagging.update(dict.fromkeys(step(caller.name).lagging))
        return list(lagging)

    def _steps(self, config: ModelConfig) -> Sequence[Step]:
        """Returns the changes of a model, in their order. Raises as `apply` does."""
        name, model = config.name, f"model '{safe_text(config.name, 80)}'"
        if not name:
            raise InvalidRequestError("config: got a model without a name, expected one")
        self._repository.catalogue.describe_one(name)
        if config.base_path and not self._is_folder(name, config.base_path):
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
        policy = self._policy(config, model)
        before = VersionPolicy.of(self._repository.catalogue.settings(name))
        after = policy or VersionPolicy.of(self._repository.catalogue.file_settings(name))
        sets_policy: list[Step] = []
        if policy != self._repository.catalogue.control(name).policy:
            sets_policy = [partial(self._manager.set_version_policy, name, policy)]
        labels = dict(self._repository.catalogue.labels(name))
        moved = self._moved_labels(config, labels)
        check_labels_served(name, dict(config.version_labels) or labels, after)
        # A configuration without labels doesn't ask to remove any.
        removed = sorted(set(labels) - set(config.version_labels)) if config.version_labels else []
        removes: list[Step] = [partial(self._manager.remove_label, name, label) for label in removed]
        if not self._is_loaded(name):
            load: Step = partial(self._manager.load, name)
            return [*sets_policy, load, *self._moves(name, moved), *removes]
        # A label moves while its version is served: before the policy leaves the old one out, if that is possible.
        early = {label: version for label, version in moved.items() if before.serves(version)}
        late = {label: version for label, version in moved.items() if label not in early}
        left = {label: version for label, version in {**labels, **early}.items() if label not in removed}
        check_labels_served(name, left, after)
        return [*self._moves(name, early), *removes, *sets_policy, *self._moves(name, late)]

    def _policy(self, config: ModelConfig, model: str) -> VersionPolicy | None:
        """Returns the policy that a configuration has; None if it has none, or that of the model's settings."""
        found = _policy(config.model_version_policy, f"{model}: model_version_policy")
        if found is None or found == VersionPolicy.of(self._repository.catalogue.file_settings(config.name)):
            return None
        for version in found.specific_versions:
            self._repository.catalogue.describe_one(config.name, version)
        return found

    def _moved_labels(self, config: ModelConfig, labels: dict[str, int]) -> dict[str, int]:
        """Returns the labels of a configuration that point elsewhere, or don't exist."""
        for label, version in sorted(config.version_labels.items()):
            check_label(label)
            self._repository.catalogue.describe_one(config.name, version)
        return {label: to for label, to in sorted(config.version_labels.items()) if labels.get(label) != to}

    def _moves(self, name: str, labels: dict[str, int]) -> list[Step]:
        return [partial(self._manager.set_label, name, label, version) for label, version in labels.items()]

    def _is_loaded(self, name: str) -> bool:
        return bool(self._repository.catalogue.serving(name)["loaded"])

    def _is_folder(self, name: str, base_path: str) -> bool:
        folder = self._repository.folder.of_model(name)
        folders = (f"{self._path}/{name}", str(folder), os.path.abspath(folder))
        return posixpath.normpath(base_path) in map(posixpath.normpath, folders)


def _policy(given: FileSystemStoragePathSourceConfig.ServableVersionPolicy, where: str) -> VersionPolicy | None:
    """Returns a policy; None if none is chosen. Raises InvalidRequestError."""
    chosen = given.WhichOneof("policy_choice")
    if chosen == "latest":
        # As in TensorFlow Serving, 0 is no number.
        count = given.latest.num_versions or 1
        if count > MAX_LATEST:
            raise InvalidRequestError(f"{where}: got latest {count}, expected up to {MAX_LATEST} versions")
        return VersionPolicy("latest", count)
    if chosen == "specific":
        versions = tuple(sorted(set(given.specific.versions)))
        if not versions:
            raise InvalidRequestError(f"{where}: got specific without versions, expected at least one")
        return VersionPolicy("specific", specific_versions=versions)
    return VersionPolicy("all") if chosen == "all" else None
