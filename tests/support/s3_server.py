"""An S3-compatible server in this process, behind a proxy that can be slow, cut answers, or be away."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from typing import Any
from urllib.request import Request, urlopen

BUCKET = "bucket"
_READING = re.compile(rb"(?:GET|HEAD) /bucket/([^ ?]+)")


class S3Server:
    """moto's server. `store` is a boto3 client that doesn't go through the proxy, as another user of the bucket."""

    def __init__(self) -> None:
        import boto3
        from moto.server import ThreadedMotoServer

        self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._moto.start()
        host, port = self._moto.get_host_and_port()
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        self.store: Any = boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys)
        self._reset = Request(f"http://{host}:{port}/moto-api/reset", method="POST")
        self.proxy = Proxy((host, port))
        self.reset()

    def reset(self) -> None:
        """Makes an empty bucket, and the proxy pass everything on."""
        urlopen(self._reset).close()
        self.store.create_bucket(Bucket=BUCKET)
        self.proxy.away, self.proxy.delay, self.proxy.cut_after, self.proxy.before_answer = False, 0.0, None, None
        self.proxy.silent.clear()
        self.proxy.endless.clear()
        self.proxy.waiting = 0
        self.proxy.statuses.clear()

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which libraries for S3 find the proxy."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.proxy.port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def put(self, path: str, content: bytes | str) -> None:
        """Writes an object."""
        self.store.put_object(Bucket=BUCKET, Key=path, Body=content)

    def delete(self, path: str) -> None:
        """Deletes an object."""
        self.store.delete_object(Bucket=BUCKET, Key=path)

    def text(self, path: str) -> str:
        """Returns the text of an object."""
        body: bytes = self.store.get_object(Bucket=BUCKET, Key=path)["Body"].read()
        return body.decode()

    def paths(self) -> list[str]:
        """Returns the paths of all objects."""
        return [one["Key"] for one in self.store.list_objects_v2(Bucket=BUCKET).get("Contents", ())]

    def close(self) -> None:
        """Ends the server and its proxy."""
        self.proxy.close()
        self.store.close()
        self._moto.stop()
        if self._moto._server is not None:
            self._moto._server.server_close()


class Proxy:
    """Passes bytes on between clients and a server."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        #: Whether connections are refused, and the open ones ended.
        self.away = False
        #: Time before each part of an answer is passed on, in seconds.
        self.delay = 0.0
        #: Number of bytes of answers after which a connection is closed; None for never.
        self.cut_after: int | None = None
        #: Called once with the next answer, before it is passed on.
        self.before_answer: Any = None
        #: Paths of objects whose readers get no answer, and statuses that readers of others get.
        self.silent: set[str] = set()
        self.statuses: dict[str, int] = {}
        #: Paths of objects whose content never ends.
        self.endless: set[str] = set()
        #: Number of requests that have got no answer.
        self.waiting = 0
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def leave(self) -> None:
        """Ends all connections, and refuses new ones until `come_back`."""
        self.away = True
        for connection in list(self._open):
            _shut(connection)

    def come_back(self) -> None:
        """Takes connections again."""
        self.away = False

    def close(self) -> None:
        """Ends it."""
        self.leave()
        _shut(self._listener)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.away:
                client.close()
                continue
            server = socket.create_connection(self._server)
            self._open |= {client, server}
            for ends in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _path_in(self, request: bytes) -> str:
        found = _READING.match(request)
        return found[1].decode() if found else ""

    def _status_of(self, request: bytes) -> int:
        """Returns the status that a test has chosen for reading an object; 0 if the request is passed on."""
        path = self._path_in(request)
        self.waiting += path in self.silent
        while path in self.silent:
            time.sleep(0.02)
        return self.statuses.get(path, 0)

    def _pass_on(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        passed = 0
        try:
            while part := source.recv(65536):
                if not answers and (status := self._status_of(part)):
                    source.sendall(f"HTTP/1.1 {status} Chosen\r\nContent-Length: 0\r\n\r\n".encode())
                    continue
                if not answers and part.startswith(b"GET") and self._path_in(part) in self.endless:
                    source.sendall(b"HTTP/1.1 206 Partial Content\r\nConnection: close\r\n\r\n")
                    while True:
                        source.sendall(bytes(1 << 20))
                if answers:
                    time.sleep(self.delay)
                    called, self.before_answer = self.before_answer, None
                    if called is not None:
                        called()
                    if self.cut_after is not None and passed + len(part) > self.cut_after:
                        target.sendall(part[: self.cut_after - passed])
                        break
                target.sendall(part)
                passed += len(part)
        except OSError:
            pass
        for end in (source, target):
            _shut(end)
            # The other direction has ended, too, or ends now.
            end.close()
            self._open.discard(end)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
