"""The hub of Hugging Face, to which models are pushed: as Keras saves them there, `keras.saving.load_model("hf://...")`."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerserve.errors import InvalidArgument
from layerserve.registries.card import Card
from layerserve.registries.mlflow_files import GOLDEN

#: The form of an address, for error texts.
FORM = "hf://USER/REPOSITORY[@REVISION]"
_ADDRESS = re.compile(r"hf://(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?/?")
#: File of a repository with its card.
README = "README.md"
#: Files of a repository that an earlier push may have left: other parts of a model.
_OF_MODELS = re.compile(
    r"(config|metadata)\.json|model\.(weights\.)?(h5|keras|json)|model_\d+\.weights\.h5|golden\.npz|assets/.*"
)


def is_address(text: str) -> bool:
    """Whether a text is an address of the hub."""
    return text.startswith("hf://")


class Registry:
    """A repository of models."""

    def __init__(self, address: str) -> None:
        """Raises InvalidArgument, and ImportError without the package."""
        found = _ADDRESS.fullmatch(address)
        if found is None:
            raise InvalidArgument(f"to: got {address!r}, expected {FORM}")
        self._name, self._revision = found["name"], found["revision"]
        import huggingface_hub

        self._library = huggingface_hub
        self._hub = huggingface_hub.HfApi(library_name="layerserve")

    def add(self, model: Path, golden: Path, card: Card) -> str:
        """Commits a model file, its golden numbers, if there is such a file, and its card.

        Returns the address of the commit. Raises OSError.
        """
        files: dict[str, bytes | str] = (
            _unpacked(model) if model.suffix == ".keras" else {f"model{model.suffix}": str(model)}
        )
        if golden.exists():
            files[GOLDEN] = str(golden)
        try:
            return self._commit(files, card)
        except (OSError, ValueError, RuntimeError, self._library.errors.HfHubHTTPError) as error:
            raise OSError(f"hf://{self._name}: {' '.join(str(error).split())}") from error

    def _commit(self, files: Mapping[str, bytes | str], card: Card) -> str:
        add, delete = self._library.CommitOperationAdd, self._library.CommitOperationDelete
        self._hub.create_repo(self._name, private=True, exist_ok=True)
        if self._revision:
            self._hub.create_branch(self._name, branch=self._revision, exist_ok=True)
        there = self._hub.list_repo_files(self._name, revision=self._revision)
        text = card.merged(self._text(README) if README in there else "")
        done = self._hub.create_commit(
            self._name,
            [
                *(add(path, content) for path, content in files.items()),
                add(README, text.encode()),
                *(delete(path) for path in there if _OF_MODELS.fullmatch(path) and path not in files),
            ],
            commit_message=f"{card.model.name} version {card.model.version}",
            revision=self._revision,
        )
        return f"hf://{self._name}@{done.oid}"

    def _text(self, path: str) -> str:
        with open(self._hub.hf_hub_download(self._name, path, revision=self._revision), encoding="utf-8") as file:
            return file.read()


def _unpacked(model: Path) -> dict[str, Any]:
    """Returns the files in a `.keras`, with their content. Raises OSError."""
    try:
        with zipfile.ZipFile(model) as archive:
            paths = [name for name in archive.namelist() if not name.endswith("/")]
            if any(".." in path.split("/") or path.startswith("/") for path in paths):
                raise OSError(f"{model.name}: has a file outside of it")
            return {path: archive.read(path) for path in paths}
    except zipfile.BadZipFile as error:
        raise OSError(f"{model.name}: can't be unpacked: {error}") from None
