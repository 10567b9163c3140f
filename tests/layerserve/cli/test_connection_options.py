"""How the commands reach a server: tokens, variables of the environment, and waiting."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from layerserve.cli import extensions, main, variables
from layerserve.cli.options import ConnectionOptions
from layerserve_server.extensions.installed import Settings
from layerserve_server.extensions.installed import variables as settings_variables


@pytest.fixture
def cli(server, capsys, monkeypatch, tmp_path):
    """Runs a command line: gives (status, standard output, standard error)."""
    monkeypatch.setenv("LAYERSERVE_ADDRESS", server.address)
    monkeypatch.chdir(tmp_path)

    def run(line):
        status = main(line.split())
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return run


def test_no_text_about_the_options_shows_the_token():
    assert "secret" not in repr(ConnectionOptions(token="secret", tls=None, timeout=1.0))


def token_of(server):
    return server.metadata[-1].get("authorization")


def test_a_token_comes_from_a_flag_a_file_or_the_environment(cli, server, monkeypatch, tmp_path):
    (tmp_path / "token").write_text("filed\n")
    assert cli("models")[0] == 0
    assert token_of(server) is None
    cli("--token typed models")
    assert token_of(server) == "Bearer typed"
    cli("--token-file token models")
    assert token_of(server) == "Bearer filed"
    monkeypatch.setenv("LAYERSERVE_TOKEN_FILE", "token")
    cli("models")
    assert token_of(server) == "Bearer filed"
    cli("--token typed models")
    assert token_of(server) == "Bearer typed"
    monkeypatch.delenv("LAYERSERVE_TOKEN_FILE")
    monkeypatch.setenv("LAYERSERVE_TOKEN", "variable")
    cli("models")
    assert token_of(server) == "Bearer variable"
    cli("--token-file token models")
    assert token_of(server) == "Bearer filed"


@pytest.mark.parametrize("variable", [True, False])
def test_a_token_and_a_file_of_one_are_too_many(cli, server, monkeypatch, variable):
    if variable:
        monkeypatch.setenv("LAYERSERVE_TOKEN", "a")
        monkeypatch.setenv("LAYERSERVE_TOKEN_FILE", "b")
    status, _, err = cli("models" if variable else "--token a --token-file b models")
    assert (status, server.calls) == (2, [])
    assert "expected one of --token and --token-file (LAYERSERVE_TOKEN and LAYERSERVE_TOKEN_FILE)" in err


def test_a_file_that_is_missing_is_named(cli):
    assert cli("--token-file nope models")[::2] == (1, "layerserve: nope: No such file or directory\n")


def test_nothing_that_is_printed_has_the_token(cli, server, monkeypatch):
    server.token = "another"
    for line in ("--token s3cr3t models", "--token s3cr3t\u00a0 models", "--token s3cr3t --help", "models --json"):
        monkeypatch.setenv("LAYERSERVE_TOKEN", "s3cr3t")
        assert "s3cr3t" not in "".join(cli(line)[1:])


def test_a_token_that_others_may_read_is_warned_of(cli):
    status, _, err = cli("--token a --timeout 0.2 models --address 192.0.2.1:1")
    assert status == 1
    assert err.startswith("layerserve: warning: the token is sent to 192.0.2.1:1 without TLS")


def test_a_misspelled_variable_is_refused_with_a_hint(cli, server, monkeypatch):
    monkeypatch.setenv("LAYERSERVE_TOKEN_FLIE", "a")
    status, _, err = cli("models")
    assert (status, server.calls) == (1, [])
    hint = "unknown setting 'LAYERSERVE_TOKEN_FLIE'; did you mean 'LAYERSERVE_TOKEN_FILE'?"
    assert err == f"layerserve: environment: {hint}\n"
    assert cli("--help")[0] == cli("models --help")[0] == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LAYERSERVE_GRPC_PORT", "8500"),
        ("LAYERSERVE_SERVICE_HOST", "10.0.0.1"),
        ("LAYERSERVE_PORT", "tcp://10.0.0.1:8500"),
        ("LAYERSERVEX", "a"),
    ],
)
def test_variables_of_others_are_none_of_the_clients(cli, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert cli("models")[0] == 0


def test_without_the_server_only_what_resembles_a_variable_of_the_client_is_refused():
    environment = {"LAYERSERVE_GRPC_PORT": "1", "LAYERSERVE_ADRESS": "a", "LAYERSERVE_ADDRESS": "b"}
    (error,) = variables.misspelled(environment, None)
    assert "'LAYERSERVE_ADRESS'; did you mean 'LAYERSERVE_ADDRESS'?" in error
    assert len(variables.misspelled(environment | {"LAYERSERVE_QQQ": "1"}, settings_variables())) == 2


def test_the_servers_settings_are_asked_of_its_package():
    assert extensions.variables() == {f"LAYERSERVE_{name.upper()}" for name in Settings.model_fields}


def test_asking_for_the_servers_settings_does_not_import_torch():
    program = "import sys; from layerserve.cli import extensions; extensions.variables(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"


def test_no_setting_has_the_name_of_a_variable_of_the_client():
    assert not settings_variables() & set(variables.ALL)


def test_one_waits_for_a_server_and_a_model(cli, server):
    assert cli("wait")[:2] == (0, f"{server.address} is ready\n")
    assert cli("wait double --version 1")[:2] == (0, "model double is ready\n")
    assert json.loads(cli("wait double --json")[1]) == {"ready": "double"}
    status, _, err = cli("wait nope --timeout 0.1")
    assert (status, err) == (1, "layerserve: unknown model 'nope'\n")
    assert "file is truncated" in cli("wait broken")[2]
    server.serving = False
    status, _, err = cli("wait --timeout 0.1")
    assert status == 1
    assert "still loading its models, or is stopping" in err
    assert "without MODEL" in cli("wait --version 3")[2]
