"""HTTP/2 frames as an attacker writes them: a connection that keeps to the protocol only where it is told to."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hpack import Decoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE = 1, 4
CANCEL = 8

#: Where attackers call from: limits of an address are not to meet honest callers, who call from another.
ATTACKER = "127.0.0.9"

#: Bytes that both sides may send before a WINDOW_UPDATE, unless settings say otherwise.
WINDOW = 65_535
#: Largest frame, unless settings say otherwise.
MAX_FRAME = 16_384

Header = tuple[bytes, bytes]


class Ended(Exception):
    """The server has ended the connection."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header_block(headers: Sequence[Header]) -> bytes:
    """Headers in HPACK: literals that are never indexed and not compressed."""
    return b"".join(b"\x10" + _text(name) + _text(value) for name, value in headers)


def _text(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest, out = len(text) - 127, b"\x7f"
    while rest >= 128:
        out += bytes([rest % 128 | 128])
        rest //= 128
    return out + bytes([rest]) + text


def call_headers(path: bytes, *more: Header, host: bytes = b"localhost") -> list[Header]:
    """The headers of a gRPC call."""
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", host),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *more,
    ]


def message(data: bytes, *, compressed: bool = False, length: int | None = None) -> bytes:
    """A gRPC message with its prefix, which may give another length than it has."""
    return struct.pack(">BI", compressed, len(data) if length is None else length) + data


@dataclass
class Answer:
    """What has come on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    #: How it ended: "status 12", "reset 8", "http 415"; empty while it is open.
    end: str = ""

    @property
    def status(self) -> str:
        """The gRPC status as a number, or how else the stream ended."""
        return self.headers.get("grpc-status", self.end)


class Wire:
    """One connection."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        source: str = ATTACKER,
        settings: dict[int, int] | None = None,
        takes: bool = True,
        receive_buffer: int = 0,
        preface: bool = True,
        acknowledges: bool = True,
    ) -> None:
        """`source` is the loopback address to call from; `takes` whether it lets the server send on and on.

        A server holds a connection to its settings once they are acknowledged.
        """
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(10)
        self.socket.bind((source, 0))
        self.socket.connect(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answers: dict[int, Answer] = {}
        self.takes = takes
        #: Error code of the GOAWAY that came.
        self.goaway: int | None = None
        self._received = b""
        self._acknowledges = acknowledges
        self._settled = False
        self._decoder = Decoder()
        self._decoder.max_header_list_size = 1 << 20
        self._next = 1
        self._room: dict[int, int] = {}
        self._initial = WINDOW
        self._connection_room = WINDOW
        if preface:
            pairs = b"".join(struct.pack(">HI", *pair) for pair in (settings or {}).items())
            self.send(PREFACE + frame(SETTINGS, 0, 0, pairs))
            if takes:
                self.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1 - WINDOW)))

    def settle(self) -> Wire:
        """Waits until the server's settings are acknowledged. Raises Ended."""
        until = time.monotonic() + 10
        while not self._settled and time.monotonic() < until:
            self.read(0.5)
        return self

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Writes bytes. Raises Ended."""
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise Ended(str(error)) from error

    def open(self, path: bytes | str, *more: Header, end: bool = False, headers: Sequence[Header] = ()) -> int:
        """Begins a call, and gives the number of its stream. `headers` replaces all of its headers."""
        number, self._next = self._next, self._next + 2
        path = path.encode() if isinstance(path, str) else path
        block = header_block(headers or call_headers(path, *more))
        self.answers[number] = Answer()
        kind, flags = HEADERS, END_STREAM if end else 0
        parts = [block[start : start + MAX_FRAME] for start in range(0, len(block), MAX_FRAME)]
        for index, part in enumerate(parts):
            last = END_HEADERS if index == len(parts) - 1 else 0
            self.send(frame(kind, flags | last, number, part))
            kind, flags = CONTINUATION, 0
        return number

    def give(self, number: int, data: bytes, *, end: bool = True, seconds: float = 10.0) -> int:
        """Sends bytes of a stream's messages, as far as the server gives room within the time; gives how many."""
        sent, until = 0, time.monotonic() + seconds
        while sent < len(data):
            room = min(self._connection_room, self._room.setdefault(number, self._initial), MAX_FRAME)
            if room <= 0:
                if self.answers[number].end or time.monotonic() > until:
                    return sent
                self.read(0.2)
                continue
            part = data[sent : sent + room]
            last = end and sent + len(part) == len(data)
            self.send(frame(DATA, END_STREAM if last else 0, number, part))
            sent += len(part)
            self._connection_room -= len(part)
            self._room[number] -= len(part)
        return sent

    def reset(self, number: int, code: int = CANCEL) -> None:
        self.send(frame(RST_STREAM, 0, number, struct.pack(">I", code)))

    def call(self, path: bytes | str, data: bytes, *more: Header, seconds: float = 10.0) -> Answer:
        """A whole unary call, or a stream of one message."""
        number = self.open(path, *more)
        self.give(number, data, seconds=seconds)
        return self.wait(number, seconds)

    def wait(self, number: int, seconds: float) -> Answer:
        """The answer on a stream, as far as it comes within the time. Raises Ended."""
        until = time.monotonic() + seconds
        while not self.answers[number].end and (left := until - time.monotonic()) > 0:
            self.read(left)
        return self.answers[number]

    def read(self, seconds: float) -> None:
        """Takes what comes, or waits for it. Raises Ended."""
        self.socket.settimeout(max(0.001, seconds))
        try:
            came = self.socket.recv(1 << 18)
        except TimeoutError:
            return
        except OSError as error:
            raise Ended(str(error)) from error
        finally:
            with contextlib.suppress(OSError):
                self.socket.settimeout(10)
        if not came:
            raise Ended("closed" if self.goaway is None else f"closed after GOAWAY {self.goaway}")
        self._received += came
        for kind, flags, number, payload in self._frames():
            self._take(kind, flags, number, payload)

    def ended(self, seconds: float) -> bool:
        """Whether the server ends the connection within the time."""
        until = time.monotonic() + seconds
        try:
            while (left := until - time.monotonic()) > 0:
                self.read(left)
        except Ended:
            return True
        return False

    def _frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        while len(self._received) >= 9:
            length = int.from_bytes(self._received[:3], "big")
            if len(self._received) < 9 + length:
                return
            kind, flags, number = struct.unpack(">BBI", self._received[3:9])
            payload, self._received = self._received[9 : 9 + length], self._received[9 + length :]
            yield kind, flags, number, payload

    def _take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            for setting, value in struct.iter_unpack(">HI", payload):
                if setting == INITIAL_WINDOW_SIZE:
                    for stream in self._room:
                        self._room[stream] += value - self._initial
                    self._initial = value
            self._settled = True
            if self._acknowledges:
                self.send(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self.send(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            (more,) = struct.unpack(">I", payload)
            if number:
                self._room[number] = self._room.get(number, self._initial) + more
            else:
                self._connection_room += more
        elif kind == GOAWAY:
            self.goaway = struct.unpack(">I", payload[4:8])[0]
        else:
            # Also for streams without a reader: HPACK decodes each header block by those before it.
            self._answer(self.answers.get(number) or Answer(), kind, flags, number, payload)

    def _answer(self, answer: Answer, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == RST_STREAM:
            answer.end = answer.end or f"reset {struct.unpack('>I', payload)[0]}"
            return
        if kind == HEADERS:
            for name, value in self._decoder.decode(payload, raw=True):
                answer.headers[bytes(name).decode("latin-1")] = bytes(value).decode("latin-1")
        elif kind == DATA:
            answer.data += payload
            if self.takes and payload:
                self.send(frame(WINDOW_UPDATE, 0, number, struct.pack(">I", len(payload))))
        if flags & END_STREAM:
            status = answer.headers.get("grpc-status")
            answer.end = f"status {status}" if status else f"http {answer.headers.get(':status')}"
