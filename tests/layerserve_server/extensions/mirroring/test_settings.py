"""Settings of the extension: of the server, and of a model."""

import pytest
from layerserve_server.commands.settings_reader import SettingsError, read_settings
from layerserve_server.extensions.installed import model_settings
from layerserve_server.extensions.mirroring.model_settings import MirroringModelSettings
from layerserve_server.repository.model_settings import ModelSettings, ModelSettingsError, parse_settings


def test_the_first_pattern_that_fits_gives_the_share_of_requests_that_are_kept():
    settings = read_settings(["--sample-models", "text-a=0, text-*=0.25 ,*=1"])
    assert [settings.sample_share(name) for name in ("text-a", "text-b", "mnist")] == [0, 0.25, 1]
    assert read_settings(["--sample-models", "text=1"]).sample_share("other") == 0


def test_a_model_has_its_settings():
    text = 'sample_share = 0.5\nshadow = "next"\nshadow_share = "1 %"\nshadow_rtol = 0.1\nshadow_atol = 0\n'
    found = parse_settings(text.encode(), "f", model_settings())
    assert isinstance(found, MirroringModelSettings)
    assert found.model_fields_set == MirroringModelSettings.model_fields.keys() - ModelSettings.model_fields.keys()
    assert (found.shadow, found.sample_share, found.shadow_rtol) == ("next", 0.5, 0.1)
    with pytest.raises(ModelSettingsError, match="f: unknown setting 'shadows'; did you mean 'shadow'"):
        parse_settings(b"shadows = 2", "f", model_settings())


@pytest.mark.parametrize(("text", "wrong"), [("m=2", "m=2"), ("a=0.1, m", "m")])
def test_a_wrong_share_is_named(text, wrong):
    with pytest.raises(SettingsError, match=f"expected MODEL=SHARE with a share from 0 to 1 in '{wrong}'"):
        read_settings(["--sample-models", text])
