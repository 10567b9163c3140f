"""The gate that all calls pass: who calls, and whether the method is open to it."""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from layerserve_server.access.balances import Balances
from layerserve_server.access.caller import ANYONE, Caller
from layerserve_server.access.credentials import Credentials
from layerserve_server.access.group import SECRET_BYTES, ProcessGroup
from layerserve_server.access.quota import MAX_KEPT, Quotas
from layerserve_server.access.reserved import Reserved
from layerserve_server.access.rights import CORE, RIGHTS, MissingRightError, Right
from layerserve_server.access.tokens_file import TokensFile, TokensFileError, parse_tokens, read_text
from layerserve_server.access.verifiers import Callers, Verifier, VerifierKind
from layerserve_server.disk import replace_file
from layerserve_server.errors import UnauthenticatedError

logger = logging.getLogger(__name__)

#: Metadata of a call that another process of this server forwards: the names in the client's certificate, after the
#: secret that only processes of this server have.
CERTIFICATE_KEY = "layerserve-certificate-bin"

Pairs = Sequence[tuple[str, "str | bytes"]]


class Arrival(Protocol):
    """A call or stream that has arrived at a transport."""

    @property
    def method(self) -> str:
        """Full name of the method."""

    @property
    def metadata(self) -> Pairs:
        """The client's metadata."""

    def certificate_names(self) -> Sequence[str]:
        """Returns the names in the client's verified certificate; empty without one."""


class Gate:
    """Finds the caller of each call, and refuses it if it may not call the method. Thread-safe."""

    def __init__(
        self,
        tokens: Path | None = None,
        *,
        certificates: bool = False,
        anonymous: Iterable[Right] | None = None,
        rights: Mapping[str, Right] = CORE,
        kinds: Sequence[VerifierKind] = (),
        group: ProcessGroup | None = None,
        reread: Callable[[str, bool], None] = lambda file, ok: None,
    ) -> None:
        """`tokens` is a file of tokens; with `certificates` clients have verified certificates.

        `anonymous` is what a caller that presents neither may do: by default everything if neither is asked for, else
        nothing. `rights` has the right of each method and path. `kinds` are those of verifiers that the file may have
        tables for. `group` is what the processes of a server have in common. `reread` is called with "tokens", or a
        verifier's name of a file, and the success of each attempt to read it again.

        Raises TokensFileError if the file is invalid.
        """
        self._path = tokens
        self._rights = rights
        self._certificates = certificates
        self._reread = reread
        self._group = group or ProcessGroup()
        balances = self._group.balances
        self._quotas = Quotas(None if balances is None else Balances(balances))
        self._asks = tokens is not None or certificates
        #: Models that only some callers may use.
        self.reserved = Reserved()
        name, given = (
            ("anonymous", tuple(anonymous or ())) if anonymous is not None or self._asks else ("anyone", RIGHTS)
        )
        self._anonymous = Caller(name, given, named=False, only=not self._asks, reserved=self.reserved)
        #: The caller of every call of a server without tokens and client certificates; None where callers differ.
        self.everyone: Caller | None = None if self._asks else self._anonymous
        #: The same if it may do everything, so that transports need not ask for each call.
        self.trusted = self.everyone if self.everyone is not None and self.everyone.unlimited else None
        #: The caller of verified certificates if nothing gives them other rights.
        self._verified: Caller | None = None
        if certificates and tokens is None:
            self._verified = Caller("a client with a certificate", reserved=self.reserved)
        #: State of the file that was read last, and why that of now can't be read.
        self._stamp: tuple[int, int, int] | None = None
        self._problem = ""
        self._kinds = kinds
        #: Those that the file has a table for, by the table's name.
        self._verifiers: dict[str, Verifier] = {}
        self._credentials: Credentials | None = None
        #: Callers by method and authorization header, so that most calls cost one lookup.
        self._admitted: dict[tuple[str, str | bytes], Caller] = {}
        if tokens is not None:
            self._read(tokens)

    def require_rights(self, methods: Iterable[str]) -> None:
        """Raises MissingRightError if one of these methods or paths has no right."""
        if missing := sorted(set(methods) - self._rights.keys()):
            raise MissingRightError(
                f"{', '.join(missing)}: got no right in proto/ or in a table of rights, expected one for each"
            )

    def start(self) -> None:
        """Starts what verifiers do in the background."""
        for verifier in self._verifiers.values():
            verifier.start()

    def stop(self) -> None:
        """Stops what verifiers do in the background."""
        for verifier in self._verifiers.values():
            verifier.stop()

    def admit(self, arrival: Arrival) -> Caller:
        """Returns the caller of a call. Raises UnauthenticatedError or ForbiddenError if it may not call the method."""
        method, header = arrival.method, None
        for key, value in arrival.metadata:
            if key == "authorization":
                if header is not None:
                    return self._admit(arrival)
                header = value
        if header is None:
            return self._admit(arrival)
        known = self._admitted.get((method, header))
        if known is not None and known.ended is None:
            if known.expires is not None:
                known.check_current()
            return known
        # The one from before the caller is looked up: what comes of an older file isn't kept for the new one.
        admitted = self._admitted
        caller = self._admit(arrival)
        if caller.named:
            if len(admitted) >= MAX_KEPT:
                admitted.clear()
            admitted[method, header] = caller
        return caller

    def _admit(self, arrival: Arrival) -> Caller:
        # A method without a right is one that the server doesn't have: it ends with UNIMPLEMENTED.
        right = self._rights.get(arrival.method, "open")
        caller = self.everyone
        if caller is None:
            caller = self._caller(right, arrival)
        if right not in caller.rights:
            caller.check(right, arrival.method.rpartition("/")[2])
        return caller

    def admit_http(self, route: str, authorization: str | None) -> Caller:
        """Like `admit`, for a request to a path of the metrics port with this authorization header."""
        right, caller = self._rights[route], self._anonymous
        if authorization is not None and self._credentials is not None and right != "open":
            caller = self._credentials.caller(authorization)
        caller.check(right, route)
        return caller

    def admit_own(self, route: str, authorization: str | None) -> Caller:
        """Admits only processes of this server. Raises UnauthenticatedError."""
        if authorization is None or not hmac.compare_digest(authorization.encode(), self._group.authorization.encode()):
            raise UnauthenticatedError(f"{route}: only for the first process of this server")
        return ANYONE

    def stamped(self, names: Sequence[str]) -> list[tuple[str, bytes]]:
        """Returns the metadata that carries the names of a client's certificate to another process of this server."""
        return [(CERTIFICATE_KEY, self._group.secret + json.dumps(list(names)).encode())] if names else []

    def refresh(self) -> None:
        """Reads the file again if it has changed. If it is invalid, what was read before stays."""
        if self._path is None:
            return
        if self._credentials is not None:
            self._credentials.end_expired()
        for verifier in self._verifiers.values():
            verifier.refresh()
        try:
            stamp = _stamp(self._path)
            if stamp == self._stamp:
                return
            self._take_text(read_text(self._path), self._path)
        except TokensFileError as error:
            # It is read again at each look: a passing fault must not keep a withdrawn token.
            self._failed(error)
        else:
            self._stamp, self._problem = stamp, ""
            logger.info("read the changed tokens file %s", self._path)
            self._reread("tokens", True)

    def _read(self, path: Path) -> None:
        """Reads the file for the first time; a process that starts later than others, what they have read."""
        stamp = _stamp(path)
        last = self._group.last_tokens
        try:
            self._take_text(read_text(path), path)
            self._stamp = stamp
        except TokensFileError as error:
            if last is None or not last.exists():
                raise
            self._take(self._parsed(read_text(last), path))
            self._failed(error)

    def _take_text(self, text: str, path: Path) -> None:
        """Takes what the text of the file grants, and keeps a valid one for processes that start later."""
        self._take(self._parsed(text, path))
        last = self._group.last_tokens
        if last is not None:
            replace_file(last, text)

    def _failed(self, error: TokensFileError) -> None:
        """Reports why the file can't be read, once while it lasts."""
        if str(error) == self._problem:
            return
        self._problem = str(error)
        for line in str(error).splitlines():
            logger.error("%s; the tokens read before stay in use", line)
        self._reread("tokens", False)

    def _parsed(self, text: str, path: Path) -> TokensFile:
        return parse_tokens(text, f"tokens file {path}", self._kinds)

    def _take(self, file: TokensFile) -> None:
        assert self._path is not None
        callers = Callers(folder=self._path.parent, quotas=self._quotas, reserved=self.reserved, reread=self._reread)
        before, verifiers = self._verifiers, dict[str, Verifier]()
        for kind in self._kinds:
            if (table := getattr(file, kind.name)) is not None:
                known = before.get(kind.name)
                verifiers[kind.name] = known if known and known.table == table else kind.make(table, callers)
        fresh = Credentials(file, self._quotas, list(verifiers.values()), self.reserved)
        old = self._credentials
        if old is not None:
            # Before calls find it: those that came in between would have callers that no later reading ends.
            fresh.replace(old)
        self._credentials = fresh
        self._admitted = {}
        self._verifiers = verifiers
        for name, verifier in before.items():
            if verifiers.get(name) is not verifier:
                verifier.stop()
                verifier.end_callers("the server's rules for tokens have changed")
        if old is not None:
            self.start()

    def _caller(self, right: Right, arrival: Arrival) -> Caller:
        headers = []
        forwarded = None
        for key, value in arrival.metadata:
            if key == "authorization":
                headers.append(value)
            elif key == CERTIFICATE_KEY:
                forwarded = value
        if self._credentials is not None and headers:
            try:
                if len(headers) > 1:
                    # Which one counts would differ between this server and a proxy that checks tokens, too.
                    raise UnauthenticatedError(f"authorization: got {len(headers)} headers, expected one")
                return self._credentials.caller(str(headers[0]))
            except UnauthenticatedError:
                if right != "open":
                    raise
                return self._anonymous
        if self._certificates:
            names = self._forwarded(forwarded) or arrival.certificate_names()
            if names:
                of_file = self._credentials.of_certificate(names) if self._credentials is not None else None
                return of_file or self._verified or self._anonymous
        return self._anonymous

    def _forwarded(self, value: str | bytes | None) -> Sequence[str]:
        if not isinstance(value, bytes) or not hmac.compare_digest(value[:SECRET_BYTES], self._group.secret):
            return ()
        names: list[str] = json.loads(value[SECRET_BYTES:])
        return names


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
