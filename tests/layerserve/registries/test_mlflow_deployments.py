"""The plugin for MLflow's deployments, as MLflow calls it."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_mlflow import BaseDeploymentClient, MlflowException

pytest.importorskip("yaml")
MODULE = "layerserve.cli.mlflow_deployments"
tomllib = pytest.importorskip("tomllib")


@pytest.fixture
def plugin(mlflow, monkeypatch):
    """The module, with MLflow's in the place of which there are others."""
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    (where,) = project["entry-points"]["mlflow.deployments"].items()
    assert where == ("layerserve", MODULE)
    yield EntryPoint(*where, "mlflow.deployments").load()
    del sys.modules[MODULE]


@pytest.fixture
def deployments(plugin, server):
    return plugin.LayerserveDeploymentClient(f"layerserve://{server.address}")


class Table(dict):
    """What is used of a DataFrame."""

    @property
    def columns(self):
        return list(self)

    def __getitem__(self, name):
        column = super().__getitem__(name)
        return SimpleNamespace(tolist=column.tolist, to_numpy=lambda: column)

    def to_numpy(self):
        return np.stack([self[name].to_numpy() for name in self], axis=1)


def code(raised):
    return raised.value.error_code


def test_mlflow_finds_one_client_and_the_functions_in_the_module(plugin):
    clients = [one for one in vars(plugin).values() if isinstance(one, type) and issubclass(one, BaseDeploymentClient)]
    assert [one.__name__ for one in clients if one is not BaseDeploymentClient] == ["LayerserveDeploymentClient"]
    assert "layerserve://HOST:PORT" in plugin.target_help()
    assert callable(plugin.run_local)


def test_a_deployment_goes_through_its_life(deployments, server, mlflow):
    for number in (1, 2):
        mlflow.register("iris", number, {"data/model.keras": f"model {number}", "code/evil.py": "code"})
    mlflow.aliases["iris", "champion"] = 1
    created = deployments.create_deployment("new", "models:/iris/champion", config={"label": "stable"})
    assert created == {"name": "new", "flavor": "keras", "version": 1}
    assert server.uploaded == {"model.keras": b"model 1"}
    with pytest.raises(MlflowException, match="the server has it; `update` adds a version") as raised:
        deployments.create_deployment("new", "models:/iris/2")
    assert code(raised) == 3001
    assert deployments.update_deployment("new", "models:/iris/2", flavor="keras")["version"] == 2
    assert server.uploaded == {"model.keras": b"model 2"}
    deployments.update_deployment("new", config={"label": "stable"})
    described = deployments.get_deployment("new")
    assert (described["name"], described["version"], described["labels"]) == ("new", 2, {"stable": 2})
    assert described["versions"] == [2, 1]
    assert {"name": "new", "version": 2, "state": "ready"} in deployments.list_deployments()
    deployments.delete_deployment("new")
    deployments.delete_deployment("new")
    assert "new" not in [one["name"] for one in deployments.list_deployments()]
    with pytest.raises(MlflowException) as raised:
        deployments.get_deployment("new")
    assert code(raised) == 3002


def test_a_model_that_can_not_be_deleted_is_loaded_again(deployments, server, monkeypatch):
    from layerserve.errors import FailedPrecondition

    def refuse(name):
        raise FailedPrecondition(f"model '{name}': run 1 hasn't ended")

    monkeypatch.setattr(deployments._client, "delete_model", refuse)
    with pytest.raises(MlflowException, match="run 1 hasn't ended"):
        deployments.delete_deployment("double")
    assert deployments.get_deployment("double")["state"] == "ready"


@pytest.mark.parametrize("inputs", [{"x": np.ones((2, 3))}, np.ones((2, 3))])
def test_predictions_are_lists(deployments, inputs):
    assert deployments.predict("double", inputs) == {"predictions": [[2.0] * 3] * 2}


def test_several_outputs_are_lists_by_name(deployments):
    inputs = {"left": np.ones((1, 2)), "right": np.ones((1, 2), int)}
    predictions = deployments.predict("two", inputs)["predictions"]
    assert predictions == {"sum": [[2.0, 2.0]], "ids": [[1, 1]]}


def test_tables_of_lists_are_arrays(deployments):
    """As MLflow's command reads JSON, with pandas."""
    assert deployments.predict("double", Table({"x": np.array([[1, 2, 3], [4, 5, 6], None], object)[:2]})) == {
        "predictions": [[2.0, 4.0, 6.0], [8.0, 10.0, 12.0]]
    }
    columns = {"a": np.ones(1), "b": np.ones(1), "c": np.ones(1)}
    assert deployments.predict("double", Table(columns)) == {"predictions": [[2.0, 2.0, 2.0]]}


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda one: one.create_deployment("new", "models:/no/1"), "models:/no/1 not found"),
        (lambda one: one.create_deployment("new", "models:/sk/1"), "flavors: got sklearn, expected keras"),
        (lambda one: one.create_deployment("new", "models:/half/1"), "files: got MLmodel, expected one of"),
        (lambda one: one.create_deployment("new", "models:/half/1", flavor="onnx"), "flavor: got 'onnx'"),
        (lambda one: one.create_deployment("new", "models:/half/1", config={"size": "2"}), "got size, expected label"),
        (lambda one: one.update_deployment("no", "models:/half/1"), "unknown model 'no'"),
        (lambda one: one.update_deployment("double"), "expected a model URI, or the config `label`"),
        (lambda one: one.predict("double", {"z": [1]}), "unknown input 'z'"),
        (lambda one: one.predict("no", [[1]]), "unknown model 'no'"),
        (lambda one: one.predict("double", [[1]], endpoint="e"), "endpoint: got 'e'"),
    ],
)
def test_errors_are_those_of_mlflow(deployments, mlflow, call, problem):
    mlflow.register("sk", 1, {}, {"sklearn": {}})
    mlflow.register("half", 1, {})
    with pytest.raises(MlflowException, match=problem):
        call(deployments)


def test_addresses_and_connections(plugin, monkeypatch, tmp_path):
    opened = []
    monkeypatch.setattr(plugin, "Client", lambda address, **options: opened.append((address, options)))
    for target in ("layerserve", "layerserve://h:1", "layerserve:/h:1", "layerserve://10.0.0.1:1,10.0.0.2:1"):
        plugin.LayerserveDeploymentClient(target)
    plain = {"tls": False, "token": None}
    assert opened == [
        ("localhost:8500", plain),
        ("h:1", plain),
        ("h:1", plain),
        ("10.0.0.1:1,10.0.0.2:1", plain),
    ]
    for name, value in {"ADDRESS": "other:1", "TOKEN_FILE": "token", "TLS": "true", "CA": "ca.pem"}.items():
        monkeypatch.setenv(f"LAYERSERVE_{name}", value)
    plugin.LayerserveDeploymentClient("layerserve")
    address, options = opened[-1]
    assert (address, options["token"], options["tls"].ca) == ("other:1", Path("token"), "ca.pem")


def test_a_model_is_served_locally(plugin, mlflow, monkeypatch):
    mlflow.register("iris", 1, {"data/model.keras": "model"})
    commands = []

    def run(command, check):
        folder = Path(command[4])
        commands.append([*command[1:4], *command[5:], (folder / "new" / "1" / "model.keras").read_text()])
        return type("Done", (), {"returncode": -2})

    monkeypatch.setattr(plugin.subprocess, "run", run)
    plugin.run_local("new", "models:/iris/1", None, {"port": 8511})
    assert commands == [["-m", "layerserve", "serve", "--grpc-port", "8511", "model"]]
