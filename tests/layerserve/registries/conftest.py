"""MLflow and the hub, as their libraries answer."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from fake_mlflow import FakeMlflow


@dataclass
class FakeHub:
    """One repository."""

    folder: Path
    name: str = ""
    private: bool = False
    branches: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[tuple[str, str | None]] = field(default_factory=list)
    #: Raised by a commit, as long as it is set.
    error: Exception | None = None

    def create_repo(self, name: str, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        self.name, self.private = name, private

    def create_branch(self, name: str, branch: str, exist_ok: bool) -> None:
        assert (name, exist_ok) == (self.name, True)
        self.branches.append(branch)

    def list_repo_files(self, name: str, revision: str | None) -> list[str]:
        return sorted(self.files)

    def hf_hub_download(self, name: str, path: str, revision: str | None) -> str:
        target = self.folder / path
        target.write_bytes(self.files[path])
        return str(target)

    def create_commit(
        self, name: str, operations: list[tuple[str, Any]], commit_message: str, revision: str | None
    ) -> SimpleNamespace:
        if self.error is not None:
            raise self.error
        for path, *content in operations:
            if content:
                (given,) = content
                self.files[path] = given if isinstance(given, bytes) else Path(given).read_bytes()
            else:
                del self.files[path]
        self.commits.append((commit_message, revision))
        return SimpleNamespace(oid=f"c{len(self.commits)}")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path)
    module: Any = ModuleType("huggingface_hub")
    module.HfApi = lambda library_name: fake
    module.CommitOperationAdd, module.CommitOperationDelete = (
        lambda path, content: (path, content),
        lambda path: (path,),
    )
    module.errors = SimpleNamespace(HfHubHTTPError=type("HfHubHTTPError", (Exception,), {}))
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return fake


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    fake = FakeMlflow(tmp_path / "mlflow")
    fake.install(monkeypatch)
    return fake
