"""Settings: flags, environment and file are three spellings of one object."""

import re

import pytest
from layerserve_server.commands.settings_reader import SettingsError, in_force, read_settings
from layerserve_server.extensions.installed import Settings
from layerserve_server.settings.flags import is_basic, sections, unset
from layerserve_server.settings.settings import Settings as CoreSettings
from layerserve_server.settings.settings import missing_paths


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "layerserve.toml"
        path.write_text(text)
        return str(path)

    return write


def test_without_flags_the_defaults_hold(monkeypatch):
    """docs/settings.md and the schema of the chart's values have them, and the bounds of numbers."""
    for name in ("TUNING_SECONDS", "TRAINING_NICE", "WARM_TRAINING"):  # that all tests have set
        monkeypatch.delenv(f"LAYERSERVE_{name}", raising=False)
    assert dict(read_settings([])) == {name: field.default for name, field in Settings.model_fields.items()}


@pytest.mark.parametrize("value", ["0", "1000000.1"])
def test_a_number_beyond_its_bounds_is_refused(value):
    assert read_settings(["--connection-idle-seconds=1000000"]).connection_idle_seconds == 1e6
    with pytest.raises(SettingsError, match="LAYERSERVE_CONNECTION_IDLE_SECONDS"):
        read_settings([f"--connection-idle-seconds={value}"])


def test_a_flag_wins_over_the_environment_and_that_over_the_file(file, monkeypatch):
    path = file("grpc_port = 1\nmetrics_port = 1\nmax_batch_rows = 1\n")
    monkeypatch.setenv("LAYERSERVE_GRPC_PORT", "2")
    monkeypatch.setenv("LAYERSERVE_METRICS_PORT", "2")
    settings = read_settings(["models", "--config", path, "--grpc-port", "3"])
    assert (settings.grpc_port, settings.metrics_port, settings.max_batch_rows) == (3, 2, 1)


def test_a_flag_that_is_repeated_is_one_list(file):
    assert read_settings(["--load", "a", "--load=b"]).load == "a,b"
    settings = read_settings(["--config", file('load = "a, b"\nmodel_control = "explicit"')])
    assert [settings.loads(name) for name in ("a", "b", "c")] == [True, True, False]
    assert read_settings(["--load=*", "--model-control=explicit"]).loads("c")
    assert not read_settings(["--model-control=explicit"]).loads("c")
    assert read_settings(["--model-control=none"]).loads("c")


def test_the_file_can_be_named_in_the_environment(file, monkeypatch):
    monkeypatch.setenv("LAYERSERVE_CONFIG", file("warm_training = false"))
    assert not read_settings([]).warm_training


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (
            ["--max-batch-rows", "0"],
            "--max-batch-rows (LAYERSERVE_MAX_BATCH_ROWS, 'max_batch_rows' in the file): got '0', ",
        ),
        (["--grpc-port", "a"], "'grpc_port' in the file): got 'a', expected a valid integer\n"),
        (["--log-level", "loud"], "expected 'debug', 'info', 'warning' or 'error'"),
        (["--tls-key", "key.pem"], "tls_certificate and tls_key: got one of them, expected both or none"),
        (["--training-device", "gpu"], "got 'gpu', expected 'cpu', 'cuda' or 'cuda:N', N the number of a GPU\n"),
        (
            ["--training-device", "cuda", "--max-workers", "2"],
            "expected 'cpu': runs with several workers train on CPUs",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_spellings(argv, text):
    with pytest.raises(SettingsError) as caught:
        read_settings(argv)
    assert text in str(caught.value) + "\n"


def test_a_name_that_is_wrong_in_the_file_is_told_with_the_near_one(file):
    with pytest.raises(SettingsError, match="unknown setting 'grpc_prt'; did you mean 'grpc_port'"):
        read_settings(["--config", file("grpc_prt = 1")])


@pytest.mark.parametrize("text", ["= 1", "grpc_port = ", "grpc_port = " + "1" * 5000, "grpc_port = " + "[" * 50_000])
def test_a_file_that_is_no_toml_is_told(file, text):
    with pytest.raises(SettingsError, match=r"layerserve.toml"):
        read_settings(["--config=" + file(text)])


def test_a_file_that_is_missing_is_told():
    with pytest.raises(SettingsError, match=r"^settings file nowhere\.toml: No such file or directory$"):
        read_settings(["--config", "nowhere.toml"])


def test_what_check_config_prints_is_a_file_that_gives_the_same_settings(file):
    settings = read_settings(["some/where", "--no-warm-training", "--drain-seconds", "1.5", "--log-format", "json"])
    again = read_settings(["--config", file(in_force(settings))])
    assert again.model_dump(exclude={"config"}) == settings.model_dump(exclude={"config"})


def test_an_empty_variable_is_none(monkeypatch):
    monkeypatch.setenv("LAYERSERVE_GRPC_PORT", "")
    assert read_settings([]).grpc_port == 8500


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("LAYERSERVE_GRPC_PRT", "unknown setting 'LAYERSERVE_GRPC_PRT'; did you mean 'LAYERSERVE_GRPC_PORT'?"),
        ("layerserve_grpc_prt", "unknown setting 'layerserve_grpc_prt'"),
        ("LAYERSERVE_XYZ", "unknown setting 'LAYERSERVE_XYZ'"),
        ("LAYERSERVE_SERVICE_HOSTS", "unknown setting 'LAYERSERVE_SERVICE_HOSTS'"),
        ("LAYERSERVE_PORT", "unknown setting 'LAYERSERVE_PORT'"),  # it is Kubernetes's only with an address in it
    ],
)
def test_a_variable_that_is_misspelt_is_told_with_the_near_one(monkeypatch, name, text):
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError) as caught:
        read_settings([])
    assert text in str(caught.value)


def test_all_variables_that_are_misspelt_are_told_at_once(monkeypatch):
    monkeypatch.setenv("LAYERSERVE_GRPC_PRT", "1")
    monkeypatch.setenv("LAYERSERVE_HOTS", "")
    with pytest.raises(SettingsError, match=r"LAYERSERVE_GRPC_PRT.*\n.*LAYERSERVE_HOTS.*LAYERSERVE_HOST'"):
        read_settings([])


def test_what_kubernetes_sets_for_services_stops_no_server(monkeypatch):
    """For services called layerserve, layerserve-metrics and layerserve-v2, in a namespace with service links."""
    for service in ("LAYERSERVE", "LAYERSERVE_METRICS", "LAYERSERVE_V2"):
        for suffix, value in {
            "SERVICE_HOST": "10.96.0.7",
            "SERVICE_PORT": "8500",
            "SERVICE_PORT_GRPC": "8500",
            "PORT": "tcp://10.96.0.7:8500",
            "PORT_8500_TCP": "tcp://10.96.0.7:8500",
            "PORT_8500_TCP_PROTO": "tcp",
            "PORT_8500_TCP_PORT": "8500",
            "PORT_8500_TCP_ADDR": "10.96.0.7",
            "PORT_53_UDP": "udp://[fd00::7]:53",
        }.items():
            monkeypatch.setenv(f"{service}_{suffix}", value)
    settings = read_settings([])
    assert (settings.metrics_port, settings.grpc_port) == (8002, 8500)
    monkeypatch.setenv("LAYERSERVE_METRICS_PORT", "1")
    assert read_settings([]).metrics_port == 1


def test_the_variables_of_the_command_line_are_known(monkeypatch):
    without = read_settings([])
    for name in ("ADDRESS", "TOKEN", "TLS", "CA"):
        monkeypatch.setenv(f"LAYERSERVE_{name}", "x")
    assert read_settings([]) == without


def test_paths_that_are_not_there_are_told(tmp_path):
    (tmp_path / "file").touch()
    names = ["path", "tls_certificate", "tls_key", "tls_client_ca", "tokens", "data_root"]
    wrong = Settings(**{name: tmp_path / f"no-{name}" for name in names})
    told = missing_paths(wrong)
    assert [f"no-{name}" in line for name, line in zip(names, told, strict=True)] == [True] * 6
    assert told[0] == (
        f"PATH (LAYERSERVE_PATH, 'path' in the file): got '{tmp_path}/no-path', expected a folder or a model file that "
        "exists"
    )
    file = tmp_path / "file"
    assert missing_paths(Settings(path=tmp_path, data_root=tmp_path, tls_certificate=file, tls_key=file)) == []
    assert missing_paths(Settings(path=file, state=tmp_path / "made")) == []
    assert len(missing_paths(Settings(path=file, data_root=file, tls_certificate=tmp_path, tls_key=tmp_path))) == 3


@pytest.mark.parametrize("address", ["s3://bucket/data/", "gs://bucket", "memory://data", "s3://bucket/a b/c"])
def test_the_data_root_may_be_the_address_of_a_store(tmp_path, address):
    settings = Settings(data_root=address)
    assert settings.data_root == address.rstrip("/")
    assert missing_paths(Settings(path=tmp_path, data_root=address)) == []
    assert dict(settings.needed_modules())["data_root"] == {"fsspec": "fsspec", "pyarrow": "pyarrow"}


@pytest.mark.parametrize(
    "address",
    [
        "file:///data",
        "local://data",
        "s3://",
        "s3:///data",
        "s3://a/../b",
        "s3://a//b",
        "simplecache::s3://a",
        "a://b::s3://c",
    ],
)
def test_an_address_of_anything_else_is_refused(address):
    with pytest.raises(ValueError, match="a folder, or the address of one in a store"):
        Settings(data_root=address)


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        Settings().grpc_port = 1


def test_every_setting_is_described():
    assert all(field.description for field in Settings.model_fields.values())


def test_the_help_says_what_holds_without_a_setting():
    said = {name: unset(field) for name, field in CoreSettings.model_fields.items() if field.default in (None, "")}
    assert {name: text for name, text in said.items() if text != "none"} == {
        "state": "'.layerserve' in the repository or next to the model file",
        "tls_certificate": "no TLS",
        "tls_key": "no TLS",
        "tls_client_ca": "clients need no certificate",
        "tokens": "no tokens",
        "allow_anonymous": "none; all on the loopback without tokens and client certificates",
        "data_root": "reading files is disabled",
        "drain_seconds": "5",
    }


def test_help_has_the_basic_settings_by_section_and_help_all_every_one(capsys):
    def shown(flag):
        with pytest.raises(SystemExit) as ended:
            read_settings([flag])
        assert ended.value.code == 0
        parts = re.split(r"^(\w[\w ]*):\n", capsys.readouterr().out, flags=re.MULTILINE)[1:]
        return {
            title: re.findall(r"^  --([\w-]+)", rows, re.MULTILINE)
            for title, rows in zip(parts[::2], parts[1::2], strict=True)
        }

    fields = Settings.model_fields
    assert {"path", "host", "grpc_port", "tokens", "data_root"} <= {name for name in fields if is_basic(fields[name])}
    assert sum(map(is_basic, fields.values())) <= 30
    everything = shown("--help-all")
    for flag, basic in (("--help-all", everything), ("--help", shown("--help"))):
        assert basic.pop("Options") == ["help-all"]
        assert basic.pop("Arguments") == []
        names = {title: [name for name in names if name != "path"] for title, names in sections(fields)}
        if flag == "--help":
            names = {title: [name for name in found if is_basic(fields[name])] for title, found in names.items()}
        expected = {title: [name.replace("_", "-") for name in found] for title, found in names.items() if found}
        assert basic == expected
    assert "max-streams" in everything["Connections"]
    assert read_settings(["--max-streams", "3"]).max_streams == 3


def test_the_help_asks_for_a_path_only_where_a_setting_is_one(capsys):
    with pytest.raises(SystemExit):
        read_settings(["--help-all"])
    paths = re.findall(r"^  --([\w-]+) PATH", capsys.readouterr().out, re.MULTILINE)
    assert {"state", "tokens", "data-root"} <= set(paths)
    assert all("Path" in str(Settings.model_fields[name.replace("-", "_")].annotation) for name in paths)


def test_state_lies_in_the_repository_or_beside_the_file(tmp_path):
    assert Settings(path=tmp_path).state_folder == tmp_path / ".layerserve"
    file = tmp_path / "model.keras"
    file.touch()
    assert Settings(path=file).state_folder == tmp_path / ".layerserve"
    assert Settings(path=file, state=tmp_path / "other").state_folder == tmp_path / "other"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "unix:/tmp/socket"])
def test_on_the_loopback_nobody_needs_a_token(host):
    assert read_settings(["--host", host]).anonymous_rights is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "models.example", "128.0.0.1"])
def test_on_other_hosts_the_server_asks_what_callers_may_do(host, tmp_path):
    with pytest.raises(SettingsError, match=f"got '{host}', where others reach the server.*--allow-anonymous predict"):
        read_settings(["--host", host])
    tls = ["--tls-certificate", "c.pem", "--tls-key", "k.pem"]
    with pytest.raises(SettingsError, match="where others reach the server"):
        read_settings(["--host", host, *tls])
    for allowed in (["--tokens", "t.toml"], [*tls, "--tls-client-ca", "ca.pem"], ["--allow-anonymous", "none"]):
        read_settings(["--host", host, *allowed])


@pytest.mark.parametrize(
    ("given", "rights"), [("predict, read", {"predict", "read"}), ("none", set()), ("manage", {"manage"})]
)
def test_rights_of_callers_without_a_token(given, rights):
    assert read_settings(["--allow-anonymous", given]).anonymous_rights == rights


def test_a_right_that_does_not_exist_is_named():
    with pytest.raises(SettingsError, match="right 'predct': expected one of predict, read, train, manage"):
        read_settings(["--allow-anonymous", "read,predct"])


def test_an_authority_of_clients_needs_tls():
    with pytest.raises(SettingsError, match="tls_client_ca: expected tls_certificate and tls_key with it"):
        read_settings(["--tls-client-ca", "ca.pem"])


def test_the_native_transport_has_no_tls(tmp_path):
    with pytest.raises(SettingsError, match="transport 'native' doesn't support TLS: use 'grpcio'"):
        read_settings([str(tmp_path), "--transport", "native", "--tls-certificate", "c.pem", "--tls-key", "k.pem"])


def test_the_native_transport_has_no_age_of_connections(tmp_path):
    with pytest.raises(SettingsError, match="max_connection_age_seconds: got 60 with transport 'native', expected 0"):
        read_settings([str(tmp_path), "--transport", "native", "--max-connection-age-seconds", "60"])
