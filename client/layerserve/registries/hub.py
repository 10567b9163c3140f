"""The hub of Hugging Face, to which models are pushed: as Keras saves them there, `keras.saving.load_model("hf://...")`."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

from layerserve.errors import InvalidArgument
from layerserve.registries.card import Card
from layerserve.registries.mlflow_files import GOLDEN

#: The form of an address, for error texts.
FORM = "hf://USER/REPOSITORY[@REVISION]"
_ADDRESS = re.compile(r"hf://(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?/?")
#: File of a repository with its card.
README = "README.md"
#: Files of an unpacked `.keras`.
_OF_MODELS = re.compile(r"(config|metadata)\.json|model(_\d+)?\.weights\.(h5|json)|golden\.npz|assets/.*")


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
        #: From where it is served.
        self.address = address.rstrip("/")
        import huggingface_hub

        self._library = huggingface_hub
        self._hub = huggingface_hub.HfApi(library_name="layerserve")

    def files(self, model: Path, golden: Path | None) -> dict[str, Path]:
        """Returns the files of a repository, by their paths in it: a `.keras` is unpacked. Raises OSError."""
        if model.suffix == ".keras":
            return {**_unpacked(model), **({} if golden is None else {GOLDEN: golden})}
        # As a server finds a file in a folder: it has the name of the model.
        stem = self._name.partition("/")[2]
        return {f"{stem}{model.suffix}": model, **({} if golden is None else {f"{stem}.{GOLDEN}": golden})}

    def add(self, files: Mapping[str, Path], card: Card) -> str:
        """Commits the files of a model, and its card. Returns the address of the commit. Raises OSError."""
        try:
            return self._commit(files, card)
        except (OSError, ValueError, RuntimeError, self._library.errors.HfHubHTTPError) as error:
            raise OSError(f"hf://{self._name}: {' '.join(str(error).split())}") from error

    def _commit(self, files: Mapping[str, Path], card: Card) -> str:
        add, delete = self._library.CommitOperationAdd, self._library.CommitOperationDelete
        self._hub.create_repo(self._name, private=True, exist_ok=True)
        if self._revision:
            self._hub.create_branch(self._name, branch=self._revision, exist_ok=True)
        there = self._hub.list_repo_files(self._name, revision=self._revision)
        text = card.merged(self._text(README) if README in there else "")
        done = self._hub.create_commit(
            self._name,
            [
                *(add(path, str(file)) for path, file in files.items()),
                add(README, text.encode()),
                *(delete(path) for path in there if self._is_of_model(path) and path not in files),
            ],
            commit_message=f"{card.model.name} version {card.model.version}",
            revision=self._revision,
        )
        return f"hf://{self._name}@{done.oid}"

    def _is_of_model(self, path: str) -> bool:
        """Whether a file may be of a model that was pushed before."""
        stem = self._name.partition("/")[2]
        return path in (f"{stem}.h5", f"{stem}.{GOLDEN}") or _OF_MODELS.fullmatch(path) is not None

    def _text(self, path: str) -> str:
        with open(self._hub.hf_hub_download(self._name, path, revision=self._revision), encoding="utf-8") as file:
            return file.read()


def _unpacked(model: Path) -> dict[str, Path]:
    """Unpacks a `.keras` beside it. Returns the paths of its files by their paths in it. Raises OSError."""
    folder = model.with_suffix("")
    try:
        with zipfile.ZipFile(model) as archive:
            paths = [name for name in archive.namelist() if not name.endswith("/")]
            if any(".." in path.split("/") or path.startswith("/") for path in paths):
                raise OSError(f"{model.name}: has a file outside of it")
            return {path: Path(archive.extract(path, folder)) for path in paths}
    except zipfile.BadZipFile as error:
        raise OSError(f"{model.name}: can't be unpacked: {error}") from None
