"""The addresses of the servers behind a client's address: a list, or what a name resolves to now."""

from __future__ import annotations

import socket
import threading
import time

from layerserve.calls.addresses import is_ip_address, servers

#: Time after which a name is resolved again, in seconds: calls go on with the addresses that it had.
RESOLVE_SECONDS = 10.0


class ServerAddresses:
    """Addresses of servers, such as "10.0.0.1:8500". Thread-safe.

    A name is resolved in a thread, since that may block for long, when its addresses are asked for. While it can't be
    resolved, its addresses stay as they were.
    """

    def __init__(self, address: str) -> None:
        """Raises InvalidArgument for an address that only gRPC can resolve."""
        self._found = servers(address)
        #: The name that is resolved, with its port; empty for IP addresses.
        self._name = "" if all(map(is_ip_address, self._found)) else self._found[0]
        self._resolved = threading.Event()
        self._next = 0.0
        if self._name:
            self._found = ()
        else:
            self._resolved.set()

    def known(self) -> tuple[str, ...]:
        """Returns the addresses; none before a name has been resolved. The same object, as long as they don't change.

        Doesn't block.
        """
        if self._name and time.monotonic() >= self._next:
            self._next = time.monotonic() + RESOLVE_SECONDS
            threading.Thread(target=self._resolve, daemon=True).start()
        return self._found

    def pending(self) -> bool:
        """Whether a name is still to be resolved for the first time."""
        return not self._resolved.is_set()

    def wait(self, seconds: float | None) -> None:
        """Waits until a name was resolved for the first time, or couldn't be; at most so many seconds."""
        self.known()
        self._resolved.wait(seconds)

    def resolve_anew(self) -> None:
        """Has a name resolved when its addresses are asked for the next time."""
        self._next = 0.0

    def _resolve(self) -> None:
        try:
            found = _addresses(self._name)
            if found != self._found:
                self._found = found
        except (OSError, UnicodeError):
            pass  # if calls fail for it, gRPC's error says why
        finally:
            self._resolved.set()


def _addresses(name: str) -> tuple[str, ...]:
    """Returns the addresses of host:port. Raises OSError if it has none, and UnicodeError for what is no name.

    Of a name with addresses of both kinds, those of IPv4: each server would be there twice.
    """
    host, _, port = name.rpartition(":")
    found: dict[int, set[str]] = {}
    for family, _, _, _, where in socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM):
        shown = f"[{where[0]}]" if family == socket.AF_INET6 else str(where[0])
        found.setdefault(family, set()).add(f"{shown}:{port}")
    return tuple(sorted(found.get(socket.AF_INET) or found.get(socket.AF_INET6) or ()))
