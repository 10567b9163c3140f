"""Requests of the page: what every caller gets, what needs a right, and what pages of other sites can't do."""

from __future__ import annotations

import re
from urllib.parse import urlencode

import pytest
from http_calls import Http
from layerserve_server.access.rights import ALTERNATIVES, RIGHTS, with_alternatives
from layerserve_server.commands.settings_reader import SettingsError, read_settings
from layerserve_server.extensions.page.part import PARTS
from layerserve_server.extensions.page.serving import FILES, Page
from layerserve_server.settings import extras
from layerserve_server.settings.extras import missing_extras
from layerserve_server.transport.http.hosts import Hosts
from layerserve_server.wiring import RIGHTS as NEEDED
from page_facts import Stub
from tokens import ENTRIES, write_tokens

ROUTES = Page(Stub(), Hosts(), None).routes()
FIELDS = {"name": "double", "version": 1, "label": "stable", "id": "0123456789ab", "checkpoint": "last"}
BODY = b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}'


@pytest.fixture
def serve(put, start, tmp_path):
    connections = []

    def serve_double(**settings):
        put("double")
        app = start(http_port=0, ui=True, **settings)
        connections.append(Http(app.http_port))
        return app, connections[-1]

    yield serve_double
    for connection in connections:
        connection.close()


def secret(call):
    return re.search(r'name="page-secret" content="([^"]+)"', call("GET", "/ui").body.decode())[1]


def ask(call, route, **headers):
    """Asks for a part with all fields that it may need."""
    name = f"{route.path}?{urlencode(FIELDS)}"
    if route.verb == "GET":
        return call("GET", name, **headers)
    body = BODY if route.path.endswith(("/predict", "/explain")) else urlencode(FIELDS).encode()
    return call("POST", name, body, **{"x-layerserve-page": secret(call), **headers})


def test_the_setting_names_the_packages_that_it_needs(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in ("jinja2", "PIL") else name)
    (found,) = missing_extras(read_settings(["--http-port", "1", "--ui"]))
    assert re.fullmatch(r"--ui \(.*\): requires Jinja2 and Pillow: pip install Jinja2 Pillow", found)


def test_without_the_setting_there_is_no_page(put, start):
    assert read_settings([]).ui is False
    put("double")
    call = Http(start(http_port=0).http_port)
    for path in ("/ui", "/ui/page.js", PARTS + "models"):
        assert call("GET", path).status == 404
    call.close()


def test_the_frame_runs_and_shows_only_what_the_server_sends(serve):
    _, call = serve()
    frame = call("GET", "/ui")
    text = frame.body.decode()
    assert frame.status == 200
    policy = dict(part.split(" ", 1) for part in frame.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert frame.headers["x-content-type-options"] == "nosniff"
    assert frame.headers["referrer-policy"] == "no-referrer"
    assert frame.headers["cache-control"] == "no-store"
    # What the policy wouldn't run isn't there: scripts and styles in the page, and other hosts.
    assert re.findall(r"<script(?![^>]*src=)|<style| style=| on\w+=|https?://", text) == []
    for name in FILES:
        reply = call("GET", f"/ui/{name}")
        assert (reply.status, reply.headers["content-type"]) == (200, FILES[name])
        assert "content-security-policy" in reply.headers
    part = call("GET", PARTS + "models")
    assert part.headers["content-security-policy"] == frame.headers["content-security-policy"]
    # Two servers have two secrets.
    other = Page(Stub(), Hosts(), None).plain()["/ui"]("").body.decode()
    assert secret(call) != re.search(r'content="([^"]+)">\n<title', other)[1]


def test_browsers_get_from_the_root_to_the_page_and_clients_get_json(serve):
    _, call = serve()
    browser = call("GET", "/", accept="text/html,application/xhtml+xml,*/*;q=0.8")
    assert (browser.status, browser.headers["location"]) == (302, "/ui")
    for headers in ({}, {"accept": "*/*"}, {"accept": "application/json"}):
        assert call("GET", "/", **headers).json == {"status": "alive"}
    assert call("GET", "/ui/").body == call("GET", "/ui").body


def test_parts_are_html_and_errors_are_text(serve):
    _, call = serve()
    listed = call("GET", PARTS + "models")
    assert listed.headers["content-type"] == "text/html; charset=utf-8"
    assert b"#model?name=double" in listed.body
    unknown = call("GET", PARTS + "model?name=%3Cscript%3E")
    assert (unknown.status, unknown.headers["content-type"]) == (404, "application/json")
    assert unknown.json["error"] == "unknown model '<script>'"
    assert call("GET", PARTS + "model").json["error"] == "name: got nothing, expected a value"
    assert call("GET", PARTS + "graph?name=double&version=two").json["error"] == (
        "version: got 'two', expected a whole number"
    )
    assert call("GET", PARTS + "graph?name=double&version=" + "9" * 19).status == 400
    many = "&".join(f"a{number}=1" for number in range(200))
    assert "fields" in call("GET", PARTS + "models?" + many).json["error"]
    assert call("POST", PARTS + "models", b"").status == 405


def test_a_prediction_goes_the_way_of_all_others(serve):
    _, call = serve()
    headers = {"x-layerserve-page": secret(call)}
    reply = call("POST", PARTS + "predict?name=double&row=5", BODY, **headers)
    assert reply.status == 200
    assert b"<td>2</td><td>4</td>" in reply.body
    assert b"data:image/png;base64," in reply.body
    wrong = call("POST", PARTS + "predict?name=double", BODY.replace(b"[1, 2]}", b"[1, 2, 3]}"), **headers)
    assert (wrong.status, "got 3 elements" in wrong.json["error"]) == (400, True)
    assert call("POST", PARTS + "predict?name=double", BODY).status == 403


CHANGES = [route for route in ROUTES if route.verb == "POST"]
#: Headers of requests that other sites can have a browser send, each with a word of the error.
ELSEWHERE = {
    "without the secret": ({"x-layerserve-page": ""}, "secret"),
    "with another secret": ({"x-layerserve-page": "guessed\u00e9"}, "secret"),
    "of another site": ({"sec-fetch-site": "cross-site"}, "sec-fetch-site"),
    "of a neighbouring site": ({"sec-fetch-site": "same-site"}, "sec-fetch-site"),
    "of another origin": ({"origin": "http://evil.example"}, "origin"),
    "of a site with the server's address": (
        {"host": "evil.example:8501", "origin": "http://evil.example:8501"},
        "host",
    ),
    "that pretends to have a token": ({"host": "evil.example", "authorization": "Bearer x"}, "host"),
    "without a host's name": ({"host": ""}, "host"),
}


def test_other_sites_change_and_read_nothing(serve):
    app, call = serve()
    assert len(CHANGES) >= 14
    for name, (headers, word) in ELSEWHERE.items():
        for route in CHANGES:
            reply = ask(call, route, **headers)
            assert (reply.status, word in reply.json["error"]) == (403, True), (name, route.path)
        if word != "secret":
            assert call("GET", PARTS + "models", **headers).status == 403, name
    assert not app.repository.catalogue.describe_one("double").pinned
    # The same request of the page itself does it.
    assert ask(call, next(route for route in CHANGES if route.path.endswith("PinVersion"))).status == 200
    assert app.repository.catalogue.describe_one("double").pinned


def test_names_of_the_server_are_set_or_need_a_token(serve, tmp_path):
    _, call = serve(http_hosts="models.example.com, other.example", tokens=write_tokens(tmp_path / "t.toml"))
    for host in ("models.example.com", "MODELS.example.com.:80", "unknown.example", "[::1]:80"):
        assert call("GET", PARTS + "models", host=host, authorization="Bearer all").status == 200
    _, call = serve(http_hosts="models.example.com, other.example")
    for host in ("models.example.com", "Other.example.:80", "localhost:1", "a.localhost", "10.0.0.1:80", "[::1]:80"):
        assert call("GET", PARTS + "models", host=host).status == 200, host
    for host in ("models.example.com.evil.example", "evil-models.example.com", "[models", "localhost.evil.example"):
        assert call("GET", PARTS + "models", host=host).status == 403, host


KINDS = [None, "wrong", *ENTRIES]


def test_every_part_with_every_kind_of_token(serve, tmp_path):
    app, call = serve(tokens=write_tokens(tmp_path / "tokens.toml"))
    # Parts about the methods of an extension are there with that extension.
    there = [route for route in ROUTES if route.method in app.methods]
    assert {NEEDED[route.method] for route in there} == {*RIGHTS, *ALTERNATIVES} - {"train"}
    for route in there:
        right = NEEDED[route.method]
        for token in KINDS:
            reply = ask(call, route, **({} if token is None else {"authorization": f"Bearer {token}"}))
            refused = reply.status if reply.status in (401, 403) else 0
            if token in (None, "wrong", "expired"):
                wanted = {401}
            elif token == "other-models":
                wanted = {0, 403}
            else:
                wanted = {0} if token == "all" or right in with_alternatives([token]) else {403}
            assert refused in wanted, (route.path, token, reply.body)
    # Lists have what the caller may see.
    assert b"double" in call("GET", PARTS + "models", authorization="Bearer all").body
    assert b"double" not in call("GET", PARTS + "models", authorization="Bearer other-models").body
    assert call("GET", PARTS + "model?name=double", authorization="Bearer other-models").status == 404


def test_buttons_are_shown_with_the_right_only(serve, tmp_path):
    _, call = serve(tokens=write_tokens(tmp_path / "tokens.toml"))
    assert b"LoadModel" in call("GET", PARTS + "versions?name=double", authorization="Bearer all").body
    assert b"data-post" not in call("GET", PARTS + "versions?name=double", authorization="Bearer read").body
    assert b"data-predict" in call("GET", PARTS + "try?name=double", authorization="Bearer all").body
    assert b"data-predict" not in call("GET", PARTS + "try?name=double", authorization="Bearer read").body


def test_the_page_goes_on_while_the_server_drains(serve):
    app, call = serve()
    app.drain()
    assert call("GET", PARTS + "models").status == 200
    assert call("GET", "/ui").status == 200


def test_a_failed_version_has_its_reason_escaped(put, serve):
    put("odd", text="<script>alert(1)</script>")
    _, call = serve()
    text = call("GET", PARTS + "versions?name=odd").body.decode()
    assert "failed" in text
    assert "<script" not in text


def test_the_page_needs_a_port(tmp_path):
    with pytest.raises(SettingsError, match=r"^--ui \(.*\): got no port for HTTP, expected --http-port with it"):
        read_settings([str(tmp_path), "--ui"])
    with pytest.raises(SettingsError, match=r"^--http-hosts \(.*\): got names without a port for HTTP"):
        read_settings([str(tmp_path), "--http-hosts", "a"])
