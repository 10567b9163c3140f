"""JSON Web Tokens: only those of the issuer, for this audience, signed by a public key of its set."""

from __future__ import annotations

import base64
import contextlib
import hmac
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from layerserve_server.access import credentials
from layerserve_server.access.gate import Gate
from layerserve_server.access.rights import with_alternatives
from layerserve_server.access.tokens_file import TokensFileError
from layerserve_server.access.verifiers import RefusedForNowError
from layerserve_server.errors import QuotaError, TokenExpiredError, UnauthenticatedError, UnavailableError
from layerserve_server.extensions.tokens_oidc import verifier
from layerserve_server.extensions.tokens_oidc.extension import JWT

RSA, OTHER = (rsa.generate_private_key(65537, 2048) for _ in range(2))
EC = ec.generate_private_key(ec.SECP256R1())


def jwk(key, kid, **more):
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, **more}


def key_set(*keys):
    return json.dumps({"keys": keys})


def signed(claims=None, key=RSA, algorithm="RS256", kid="one", **changes):
    now = time.time()
    content = {
        "iss": "https://login.example/",
        "aud": "layerserve",
        "sub": "ann",
        "exp": now + 600,
        "rights": ["predict", "read", "unknown"],
        **(claims or {}),
        **changes,
    }
    content = {name: value for name, value in content.items() if value is not None}
    return jwt.encode(content, key, algorithm, headers={} if kid is None else {"kid": kid})


@pytest.fixture
def make_gate(tmp_path):
    """Gates with a [jwt] section; its keys are in a file unless told otherwise."""

    def make(more="", keys=None, **options):
        if keys is None:
            (tmp_path / "keys.json").write_text(key_set(jwk(RSA, "one"), jwk(EC, "two")))
        path = tmp_path / "tokens.toml"
        path.write_text(
            f'[jwt]\nkeys = "{keys or "keys.json"}"\nissuer = "https://login.example/"\naudience = "layerserve"\n{more}'
        )
        return Gate(path, kinds=[JWT], **options)

    return make


def caller(gate, token):
    return gate._credentials.caller(f"Bearer {token}")


def test_a_token_gives_the_rights_of_its_claims(make_gate):
    gate = make_gate()
    found = caller(gate, signed())
    assert (found.name, found.rights, found.models) == ("ann", with_alternatives(["predict", "read"]), ("*",))
    assert found.expires == pytest.approx(time.time() + 630, abs=5)
    assert caller(gate, signed(key=EC, algorithm="ES256", kid="two")).name == "ann"
    # One text, as in `scope`.
    assert caller(gate, signed(rights="train manage")).rights == with_alternatives(["train", "manage"])
    for none in (None, 7, {"predict": True}, [["predict"]], ""):
        assert caller(gate, signed(rights=none)).rights == {"open"}


def test_a_key_is_used_with_the_algorithms_of_the_settings_and_its_own(make_gate, tmp_path):
    gate = make_gate('algorithms = ["PS256", "RS512", "ES384", "EdDSA"]\n')
    for algorithm in ("PS256", "RS512"):
        assert caller(gate, signed(algorithm=algorithm)).name == "ann"
    for token in (signed(), signed(key=EC, algorithm="ES256", kid="two")):
        with pytest.raises(UnauthenticatedError):
            caller(gate, token)
    (tmp_path / "keys.json").write_text(key_set(jwk(RSA, "one", alg="RS512"), {**jwk(RSA, "three"), "n": "!"}))
    gate.refresh()
    assert caller(gate, signed(algorithm="RS512", jti="2")).name == "ann"
    with pytest.raises(UnauthenticatedError):
        caller(gate, signed(algorithm="PS256", jti="2"))
    (tmp_path / "keys.json").write_text(key_set(jwk(EC, "two")))
    with pytest.raises(TokensFileError, match="for one of the algorithms PS256, RS512"):
        Gate(tmp_path / "tokens.toml", kinds=[JWT])


def test_roles_and_models_may_be_claims(make_gate):
    gate = make_gate(
        'rights_claim = "realm.roles"\nmodels_claim = "https://x/models"\nname_claim = "email"\nmax_runs = 1\n'
        '[jwt.roles]\nteam = ["train", "read"]\n'
    )
    found = caller(gate, signed({"realm": {"roles": ["team", "predict"]}, "https://x/models": ["a-*"], "email": "a@b"}))
    assert (found.name, found.rights, found.models) == ("a@b", with_alternatives(["read", "train"]), ("a-*",))
    assert found.quota.max_runs == 1
    assert caller(gate, signed({"realm": "team", "email": "a@b"})).models == ()
    with pytest.raises(UnauthenticatedError, match="no claim 'email' with a name"):
        caller(gate, signed())


def test_a_caller_has_one_quota_for_all_of_its_tokens(make_gate):
    gate = make_gate("rows_per_second = 5\n")
    first, second = (caller(gate, signed(jti=str(number))) for number in range(2))
    assert first is not second
    assert first.quota is second.quota
    assert caller(gate, signed(sub="bob")).quota is not first.quota
    first.quota.take_rows(6)
    with pytest.raises(QuotaError, match="its quota of 5 rows per second is used up"):
        second.quota.take_rows(1)


def unsigned(header, claims):
    def part(data):
        return base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b"=").decode()

    return f"{part(header)}.{part(claims)}"


PUBLIC = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
CLAIMS = {"iss": "https://login.example/", "aud": "layerserve", "sub": "ann", "exp": 4e9, "rights": ["manage"]}


def confused():
    """The public key as a shared secret, with which everyone who can read it can sign."""
    text = unsigned({"alg": "HS256", "kid": "one"}, CLAIMS)
    signature = base64.urlsafe_b64encode(hmac.digest(PUBLIC, text.encode(), "sha256")).rstrip(b"=").decode()
    return f"{text}.{signature}"


@pytest.mark.parametrize(
    "token",
    [
        signed(key=OTHER),
        signed(iss="https://other.example/"),
        signed(iss=None),
        signed(aud="other"),
        signed(aud=None),
        signed(exp=None),
        signed(exp="soon"),
        signed(exp=10**400),
        signed(exp=float("inf")),
        signed(nbf=float("inf")),
        jwt.PyJWS().encode(b'{"exp":' + b"[" * 5000 + b"]" * 5000 + b"}", RSA, "RS256", headers={"kid": "one"}),
        signed(sub=None),
        signed(sub=7),
        signed(sub="x" * 201),
        signed(sub="ann\ud800"),
        signed(key=RSA, algorithm="RS512"),
        signed(key=EC, algorithm="ES256", kid="one"),
        signed(key=RSA, algorithm="RS256", kid="two"),
        confused(),
        unsigned({"alg": "none", "kid": "one"}, CLAIMS) + ".",
        unsigned({"alg": "None", "kid": "one"}, CLAIMS) + ".",
        signed()[:-4] + "AAAA",
        "..",
        "a.b.c",
        "\ud800.b.c",
        signed().replace(".", ".A", 1),
    ],
)
def test_other_tokens_are_refused(make_gate, token):
    with pytest.raises(UnauthenticatedError):
        caller(make_gate(), token)


def test_an_expired_token_is_told_from_a_wrong_one_with_leeway(make_gate):
    gate = make_gate("leeway_seconds = 60\n")
    late = caller(gate, signed(exp=time.time() - 30))
    assert late.expires == pytest.approx(time.time() + 30, abs=5)
    with pytest.raises(TokenExpiredError):
        caller(gate, signed(exp=time.time() - 90))
    with pytest.raises(RefusedForNowError):
        caller(gate, signed(nbf=time.time() + 90))
    # An expired one of another key is wrong.
    with pytest.raises(UnauthenticatedError) as caught:
        caller(gate, signed(exp=time.time() - 90, key=OTHER))
    assert not isinstance(caught.value, TokenExpiredError)


def test_a_token_is_verified_once(make_gate, monkeypatch):
    gate = make_gate()
    good, bad = signed(), signed(key=OTHER)
    first = caller(gate, good)
    with pytest.raises(UnauthenticatedError):
        caller(gate, bad)
    monkeypatch.setattr(jwt, "decode", lambda *_, **__: pytest.fail("verifies it again"))
    assert caller(gate, good) is first
    with pytest.raises(UnauthenticatedError):
        caller(gate, bad)
    first.expires = time.time() - 1
    with pytest.raises(TokenExpiredError):
        caller(gate, good)


def test_refused_tokens_are_not_kept_for_ever(make_gate, monkeypatch):
    monkeypatch.setattr(credentials, "MAX_KEPT", 8)
    gate, text = make_gate(), signed(key=OTHER)
    for number in range(30):
        with pytest.raises(UnauthenticatedError):
            caller(gate, f"{text}{number}")
    assert 0 < len(gate._credentials._refused) <= 8


def test_secrets_and_keys_for_encryption_are_no_keys(make_gate, tmp_path):
    make_gate()
    secret = {"kty": "oct", "k": "c2VjcmV0", "kid": "one", "alg": "HS256"}
    for keys in (
        key_set(secret),
        key_set(jwk(RSA, "one", use="enc")),
        "{}",
        "[]",
        '{"keys": [1]}',
        "{",
        '{"keys": []}',
    ):
        (tmp_path / "keys.json").write_text(keys)
        with pytest.raises(TokensFileError, match=r"keys\.json: "):
            Gate(tmp_path / "tokens.toml", kinds=[JWT])
    # A key of an unknown type doesn't spoil the others.
    (tmp_path / "keys.json").write_text(key_set({"kty": "OKP", "crv": "New", "x": "AA"}, secret, jwk(RSA, "one")))
    assert list(Gate(tmp_path / "tokens.toml", kinds=[JWT])._verifiers["jwt"]._keys) == ["one"]


def test_a_set_of_one_key_needs_no_id(make_gate, tmp_path):
    gate = make_gate()
    with pytest.raises(RefusedForNowError):
        caller(gate, signed(kid=None))
    (tmp_path / "keys.json").write_text(key_set({**jwk(RSA, ""), "kid": "only"}))
    gate.refresh()
    assert caller(gate, signed(kid=None)).name == "ann"


def test_a_changed_file_of_keys_is_read_and_a_wrong_one_is_not(make_gate, tmp_path):
    told = []
    gate = make_gate(reread=lambda what, ok: told.append((what, ok)))
    old = signed()
    before = caller(gate, old)
    told.clear()
    (tmp_path / "keys.json").write_text(key_set(jwk(OTHER, "three")))
    gate.refresh()
    assert told == [("keys", True)]
    assert caller(gate, signed(key=OTHER, kid="three")).name == "ann"
    # Tokens of a key that was withdrawn aren't valid any more, also if they were used before.
    assert "key of the token was withdrawn" in str(before.ended)
    for token in (old, signed(jti="new")):
        with pytest.raises(UnauthenticatedError):
            caller(gate, token)
    (tmp_path / "keys.json").write_text("{")
    gate.refresh()
    gate.refresh()
    assert told[1:] == [("keys", False)]
    before = caller(gate, signed(key=OTHER, kid="three"))
    # Other rules end the streams of tokens under the earlier ones.
    assert before.ended is None
    (tmp_path / "keys.json").write_text(key_set(jwk(OTHER, "three")))
    make_gate("leeway_seconds = 5\n", keys="keys.json")
    gate.refresh()
    assert "rules for tokens have changed" in str(before.ended)


def test_a_token_that_was_refused_is_checked_anew_with_other_keys(make_gate, tmp_path, monkeypatch):
    """A provider without ids of keys replaces its key: its first new tokens come before the new key is read."""
    gate = make_gate()
    token = signed(key=OTHER)
    for _ in range(2):
        with pytest.raises(UnauthenticatedError):
            caller(gate, token)
    (tmp_path / "keys.json").write_text(key_set(jwk(OTHER, "one")))
    gate.refresh()
    assert caller(gate, token).name == "ann"
    # As long as the keys are the same, it is checked once.
    wrong = signed(key=RSA)
    for _ in range(2):
        with pytest.raises(UnauthenticatedError):
            caller(gate, wrong)
        monkeypatch.setattr(gate._verifiers["jwt"], "caller", None)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"keys": {"kty": "RSA"}}',
        '{"keys": [1]}',
        '{"keys": [{"kty": ["RSA"]}]}',
        '{"keys": [{"kty": "EC", "crv": ["P-256"]}]}',
        pytest.param('{"keys": ' + "[" * 50_000 + "]" * 50_000 + "}", id="deep"),
    ],
)
def test_what_is_no_key_set_is_reported(make_gate, tmp_path, text):
    reported = []
    gate = make_gate(reread=lambda what, ok: reported.append((what, ok)))
    (tmp_path / "keys.json").write_text(text)
    gate.refresh()
    assert reported[-1] == ("keys", False)
    assert caller(gate, signed()).name == "ann"
    with pytest.raises(TokensFileError, match="expected a JSON object with 'keys', a list of keys"):
        Gate(tmp_path / "tokens.toml", kinds=[JWT])


class KeyServer:
    """An identity provider's address of keys; away while `keys` is None."""

    def __init__(self, keys):
        self.keys, self.fetched = keys, 0
        #: Where requests are redirected to, and seconds before each byte of the keys.
        self.redirect, self.pause = "", 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.fetched += 1
                if outer.redirect and self.path == "/keys":
                    self.send_response(302)
                    self.send_header("Location", outer.redirect)
                    self.end_headers()
                    return
                body = b"" if outer.keys is None else outer.keys.encode()
                self.send_response(503 if outer.keys is None else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if not outer.pause:
                    self.wfile.write(body)
                    return
                with contextlib.suppress(OSError):
                    for byte in body:
                        self.wfile.write(bytes([byte]))
                        time.sleep(outer.pause)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/keys"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def key_server():
    server = KeyServer(None)
    yield server
    server.close()


def test_keys_of_an_address_are_fetched_in_the_background(make_gate, key_server, wait_until, monkeypatch):
    monkeypatch.setattr(verifier, "MIN_FETCH_SECONDS", 0.05)
    told = []
    gate = make_gate(keys=key_server.address, reread=lambda what, ok: told.append((what, ok)))
    # Before any were fetched nobody can tell whether a token is valid.
    with pytest.raises(UnavailableError):
        caller(gate, signed())
    gate.start()
    try:
        wait_until(lambda: ("keys", False) in told)
        key_server.keys = key_set(jwk(RSA, "one"))
        wait_until(lambda: ("keys", True) in told)
        assert caller(gate, signed()).name == "ann"

        # The provider rotates its key: a token that names a new one has them fetched again.
        key_server.keys = key_set(jwk(RSA, "one"), jwk(OTHER, "three"))
        token = signed(key=OTHER, kid="three")
        with pytest.raises(UnauthenticatedError):
            caller(gate, token)

        def accepted():
            try:
                return caller(gate, token).name == "ann"
            except UnauthenticatedError:
                return False

        wait_until(accepted)

        # While it is away, the keys serve on.
        key_server.keys = None
        told.clear()
        with pytest.raises(UnauthenticatedError):
            caller(gate, signed(kid="four"))
        wait_until(lambda: told)
        assert told == [("keys", False)]
        assert caller(gate, signed(jti="another")).name == "ann"
    finally:
        gate.stop()


def test_keys_are_not_fetched_from_where_a_redirect_leads_without_tls(key_server):
    key_server.keys = key_set(jwk(RSA, "one"))
    # It is reached by this name, too, but not every name is this machine.
    for address in (key_server.address.replace("127.0.0.1", "127.0.0.2") + "/2", "ftp://127.0.0.1/keys"):
        key_server.redirect = address
        with pytest.raises(ValueError, match=r"got a redirect to .*, expected an https:// address"):
            verifier._fetched(key_server.address)
    key_server.redirect = key_server.address + "/2"
    assert verifier._fetched(key_server.address).decode() == key_server.keys


def test_fetching_keys_ends_however_slowly_they_come(key_server, monkeypatch):
    """Else those fetched before would stay for ever, and no metric would say so."""
    monkeypatch.setattr(verifier, "FETCH_SECONDS", 0.3)
    key_server.keys, key_server.pause = " " * 60 + key_set(jwk(RSA, "one")), 0.05
    with pytest.raises(ValueError, match=r"got \d+ bytes in 0.3 seconds, expected the whole set"):
        verifier._fetched(key_server.address)


def test_unknown_keys_do_not_cause_a_flood_of_fetches(make_gate, key_server, wait_until, monkeypatch):
    key_server.keys = key_set(jwk(RSA, "one"))
    gate = make_gate(keys=key_server.address)
    gate.start()
    try:
        wait_until(lambda: gate._verifiers["jwt"]._keys)
        for number in range(500):
            with pytest.raises(UnauthenticatedError):
                caller(gate, signed(kid=f"unknown-{number % 3}", jti=str(number)))
        assert key_server.fetched == 1
    finally:
        gate.stop()


def test_without_the_package_the_extra_is_named(make_gate, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jwt", None)
    with pytest.raises(TokensFileError, match=r"pip install 'PyJWT\[crypto\]'"):
        make_gate()
