"""Settings of the page."""

from layerserve_server.commands.settings_reader import read_settings
from missing_packages import check_named

LINE = r"--ui \(.*\): requires Jinja2 and Pillow: pip install Jinja2 Pillow"


def test_the_page_names_the_packages_that_it_needs(monkeypatch):
    check_named(monkeypatch, ["--http-port", "1", "--ui"], ["jinja2", "PIL"], LINE)


def test_the_page_isnt_served_unless_asked_for():
    assert read_settings([]).ui is False
