"""Retries of the stores' libraries, with stand-ins for those that aren't installed."""

from __future__ import annotations

import functools
import os
import sys
from types import ModuleType

import pytest
from layerserve_server.extensions.object_stores import retries


class Answers(Exception):
    pass


def retry_request(retries=6):
    """As gcsfs has it."""

    def decorate(function):
        @functools.wraps(function)
        def repeated(*arguments):
            for attempt in range(retries):
                try:
                    return function(*arguments)
                except Answers:
                    if attempt == retries - 1:
                        raise

        return repeated

    return decorate


@pytest.fixture
def library(monkeypatch):
    """Makes stand-ins for modules."""

    def make(name, **content):
        for part in (name.partition(".")[0], name):
            monkeypatch.setitem(sys.modules, part, ModuleType(part))
        module = sys.modules[name]
        setattr(sys.modules[name.partition(".")[0]], name.rpartition(".")[2], module)
        for key, value in content.items():
            setattr(module, key, value)
        return module

    return make


def test_google_s_requests_are_tried_twice(library):
    library("gcsfs.retry", retry_request=retry_request)

    class Files:
        retries = 6
        asked = 0

        @retry_request(retries=retries)
        def _request(self, path):
            self.asked += 1
            raise Answers(path)

    files = Files()
    retries.limit(files)
    with pytest.raises(Answers, match="a path"):
        files._request("a path")
    assert (files.asked, files.retries) == (retries.ATTEMPTS, retries.ATTEMPTS)


def test_a_filesystem_without_such_parts_stays_as_it_is():
    class Files:
        def _request(self):
            return 1

    files = Files()
    retries.limit(files)
    assert (files._request(), vars(files)) == (1, {})


def test_google_s_kinds_of_buckets_are_not_asked_for_unless_the_user_wants_that(monkeypatch):
    name = "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"
    monkeypatch.delenv(name, raising=False)
    for scheme, expected in (("s3", None), ("gcs", "false")):
        retries.prepare(scheme)
        assert retries.os.environ.get(name) == expected
    monkeypatch.setenv(name, "true")
    retries.prepare("gs")
    assert retries.os.environ[name] == "true"


def test_azure_s_clients_are_made_without_retries(library):
    class Client:
        def __init__(self, url, **options):
            self.url, self.options = url, options

        @classmethod
        def from_connection_string(cls, text, **options):
            return cls(text, **options)

    spec = library("adlfs.spec", AIOBlobServiceClient=Client)
    for scheme in ("az", "abfs"):
        retries.prepare(scheme)
    made = spec.AIOBlobServiceClient.from_connection_string("a", read_timeout=7)
    assert isinstance(made, Client)
    assert made.options == {"retry_total": 0, "connection_timeout": 5, "read_timeout": 7}
    assert spec.AIOBlobServiceClient.__mro__[1] is Client


def test_a_library_that_is_not_there_is_left_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "adlfs.spec", None)  # importing it fails
    before = dict(os.environ)
    retries.prepare("az")
    assert (dict(os.environ), sys.modules["adlfs.spec"]) == (before, None)
