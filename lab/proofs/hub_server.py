"""A stand-in for a hub of models (`hf://`): one repository, whose files a test or a commit writes."""

from __future__ import annotations

import hashlib
import json
import threading
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

REPOSITORY = "team/models"


class HubServer:
    """Serves the part of the hub's API that reading and commits need. `files` has the content of each file, by path."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def commit(self) -> str:
        """Id of the newest commit: another one if any file is another."""
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()

    def described(self, path: str) -> dict[str, Any]:
        """Returns the hub's description of a file: large ones are in LFS."""
        content = self.files[path]
        about = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        if path.endswith((".keras", ".h5")):
            about["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 100}
        return about

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        api = f"api/models/{REPOSITORY}"
        if path == api or path.startswith(f"{api}/revision/"):
            self._json({"id": REPOSITORY, "sha": self.hub.commit, "private": False, "tags": [], "siblings": []})
        elif path.startswith(f"{api}/tree/"):
            below = path.removeprefix(f"{api}/tree/").partition("/")[2]
            start = f"{below}/" if below else ""
            found = [self.hub.described(one) for one in sorted(self.hub.files) if one.startswith(start)]
            self._json(found) if found or not below else self._missing("EntryNotFound")
        elif path.startswith(f"{REPOSITORY}/resolve/"):
            self._content(path.removeprefix(f"{REPOSITORY}/resolve/").partition("/")[2])
        else:
            self._missing("RepoNotFound")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        path = urlsplit(self.path).path.strip("/")
        if path == "api/repos/create":
            self._json({"url": f"http://{self.headers['Host']}/{REPOSITORY}", "name": REPOSITORY})
            return
        if path == "api/validate-yaml":
            self._json({"errors": [], "warnings": []})
            return
        if path.startswith(f"api/models/{REPOSITORY}/preupload/"):
            files = [{"path": one["path"], "uploadMode": "regular"} for one in json.loads(body)["files"]]
            self._json({"files": [{**one, "shouldIgnore": False} for one in files]})
            return
        if path.startswith(f"api/models/{REPOSITORY}/commit/"):
            self._commit([json.loads(line) for line in body.splitlines()])
            return
        json_body = self.headers["Content-Type"].startswith("application/json")
        paths = json.loads(body)["paths"] if json_body else parse_qs(body)["paths"]
        self._json([self.hub.described(path) for path in paths if path in self.hub.files])

    def log_message(self, *_: object) -> None:
        """Logs nothing."""

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            if line["key"] == "file":
                self.hub.files[line["value"]["path"]] = b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del self.hub.files[line["value"]["path"]]
        url = f"http://{self.headers['Host']}/{REPOSITORY}/commit/{self.hub.commit}"
        self._json({"success": True, "commitUrl": url, "commitOid": self.hub.commit})

    def _content(self, path: str) -> None:
        if path not in self.hub.files:
            self._missing("EntryNotFound")
            return
        content, total = self.hub.files[path], len(self.hub.files[path])
        headers = {"ETag": f'"{self.hub.described(path)["oid"]}"', "X-Repo-Commit": self.hub.commit}
        if wanted := self.headers.get("Range"):
            start, _, stop = wanted.removeprefix("bytes=").partition("-")
            content = content[int(start) : int(stop) + 1 if stop else total]
            headers["Content-Range"] = f"bytes {start}-{int(start) + len(content) - 1}/{total}"
        self._send(206 if wanted else 200, content, headers)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _missing(self, code: str) -> None:
        self._send(404, b"{}", {"X-Error-Code": code, "Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
