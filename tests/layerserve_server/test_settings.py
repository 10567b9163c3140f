"""Settings: flags, environment and file are three spellings of one object."""

import pytest
from layerserve_server.settings import Settings, SettingsError, in_force, read_settings


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "layerserve.toml"
        path.write_text(text)
        return str(path)

    return write


def test_the_defaults_are_the_documented_ones():
    settings = read_settings([])
    assert (settings.grpc_port, settings.metrics_port) == (8500, 8002)
    assert settings.reflection


def test_a_flag_wins_over_the_environment_and_that_over_the_file(file, monkeypatch):
    path = file("grpc_port = 1\nmetrics_port = 1\nmax_batch_rows = 1\n")
    monkeypatch.setenv("LAYERSERVE_GRPC_PORT", "2")
    monkeypatch.setenv("LAYERSERVE_METRICS_PORT", "2")
    settings = read_settings(["models", "--config", path, "--grpc-port", "3"])
    assert (settings.grpc_port, settings.metrics_port, settings.max_batch_rows) == (3, 2, 1)


def test_the_file_can_be_named_in_the_environment(file, monkeypatch):
    monkeypatch.setenv("LAYERSERVE_CONFIG", file("reflection = false"))
    assert not read_settings([]).reflection


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (
            ["--max-batch-rows", "0"],
            "--max-batch-rows (LAYERSERVE_MAX_BATCH_ROWS, 'max_batch_rows' in the file): got '0', ",
        ),
        (["--grpc-port", "x"], "--grpc-port"),
        (["--log-level", "loud"], "expected 'debug', 'info', 'warning' or 'error'"),
        (["--tls-key", "key.pem"], "tls_certificate and tls_key go together"),
        (["--training-device", "tpu"], "--training-device"),
        (["--training-device", "cuda", "--max-workers", "2"], "a run with several workers trains on processors"),
    ],
)
def test_a_wrong_value_is_named_with_its_spellings(argv, text):
    with pytest.raises(SettingsError) as caught:
        read_settings(argv)
    assert text in str(caught.value)


def test_a_name_that_is_wrong_in_the_file_is_told_with_the_near_one(file):
    with pytest.raises(SettingsError, match="unknown setting 'grpc_prt'; did you mean 'grpc_port'"):
        read_settings(["--config", file("grpc_prt = 1")])


@pytest.mark.parametrize("text", ["= 1", "grpc_port = "])
def test_a_file_that_is_no_toml_is_told(file, text):
    with pytest.raises(SettingsError, match=r"layerserve.toml"):
        read_settings(["--config=" + file(text)])


def test_a_file_that_is_missing_is_told():
    with pytest.raises(SettingsError, match="No such file"):
        read_settings(["--config", "nowhere.toml"])


def test_what_check_config_prints_is_a_file_that_gives_the_same_settings(file):
    settings = read_settings(["some/where", "--no-reflection", "--drain-seconds", "1.5", "--log-format", "json"])
    again = read_settings(["--config", file(in_force(settings))])
    assert again.model_dump(exclude={"config"}) == settings.model_dump(exclude={"config"})


def test_every_setting_is_described():
    assert all(field.description for field in Settings.model_fields.values())


def test_state_lies_in_the_repository_or_beside_the_file(tmp_path):
    assert Settings(path=tmp_path).state_folder == tmp_path / ".layerserve"
    file = tmp_path / "model.keras"
    file.touch()
    assert Settings(path=file).state_folder == tmp_path / ".layerserve"
    assert Settings(path=file, state=tmp_path / "other").state_folder == tmp_path / "other"


def test_the_native_transport_has_no_tls(tmp_path):
    with pytest.raises(SettingsError, match="transport 'native' has no TLS: take 'grpcio'"):
        read_settings([str(tmp_path), "--transport", "native", "--tls-certificate", "c.pem", "--tls-key", "k.pem"])
