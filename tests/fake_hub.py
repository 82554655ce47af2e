"""A server on this machine that speaks as much of the Hugging Face Hub's HTTP interface as downloads use.

As on the hub, the list of files is JSON, a file's address leads to another host that has the contents (here another
name of this machine), that host knows ranges, and who may not see a repository is told so in a header.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from patience import PATIENCE

TOKEN = "hf_right"

PAUSE_AT = (2 << 20) + 100
"""Bytes after which a repository that pauses does so."""


@dataclass
class Repository:
    """What one repository has and does.

    Attributes:
        files: contents by name.
        access: ``public``, ``private`` (seen with TOKEN only) or ``gated`` (listed for all, given with TOKEN only).
        damaged: names whose contents come with another last byte.
        announced: by name, what is listed in place of the content's SHA-256.
        cuts: after how many bytes each of the next answers breaks off.
        status: of every answer, where it is an error.
        ignores_ranges: the content's host sends all, whatever range was asked for.
        pauses: it stops after two mebibytes and a bit, once, until it may go on.
    """

    files: dict[str, bytes]
    access: str = "public"
    damaged: set[str] = field(default_factory=set)
    announced: dict[str, str] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    status: int | None = None
    ignores_ranges: bool = False
    pauses: bool = False


@dataclass
class FakeHub:
    """The server, and what it was asked."""

    address: str
    repositories: dict[str, Repository]
    asked: list[str] = field(default_factory=list)
    tokens_elsewhere: list[str] = field(default_factory=list)
    paused: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def contents_asked(self) -> list[str]:
        """Ranges in which contents were asked for, empty for all of it."""
        return [line.removeprefix("content ") for line in self.asked if line.startswith("content")]


@contextlib.contextmanager
def serving(repositories: Mapping[str, Repository]) -> Iterator[FakeHub]:
    """The hub, while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    port = server.server_address[1]
    hub = FakeHub(f"http://127.0.0.1:{port}", dict(repositories))
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.hub = self.server.hub  # type: ignore[attr-defined]
        path = unquote(urlsplit(self.path).path).strip("/")
        if path.startswith("api/models/"):
            self._list(path.removeprefix("api/models/"))
        elif path.startswith("api/"):  # what the client asks of its own
            self._refuse(404, None)
        elif path.startswith("content/"):
            self._content(path, body)
        else:
            owner, name, _resolve, _revision, *file = path.split("/")
            self._lead(f"{owner}/{name}", "/".join(file))

    def _list(self, name: str) -> None:
        self.hub.asked.append(f"list {name}")
        found = self._seen(name)
        if found is None:
            return
        siblings = []
        for file, data in found.files.items():
            one: dict[str, object] = {"rfilename": file, "size": len(data), "blobId": "0" * 40}
            if file.endswith(".gguf"):
                sha256 = found.announced.get(file, hashlib.sha256(data).hexdigest())
                one["lfs"] = {"size": len(data), "sha256": sha256, "pointerSize": 134}
            siblings.append(one)
        self._send(200, json.dumps({"id": name, "sha": _commit(found), "siblings": siblings}).encode())

    def _lead(self, name: str, file: str) -> None:
        """To where the content is."""
        self.hub.asked.append(f"lead {name}/{file}")
        found = self._seen(name)
        if found is None:
            return
        if found.access == "gated" and not self._knows_token():
            self._refuse(403 if self.headers.get("Authorization") else 401, "GatedRepo")
        elif file not in found.files:
            self._refuse(404, "EntryNotFound")
        else:
            data = found.files[file]
            elsewhere = self.hub.address.replace("127.0.0.1", "localhost")
            headers = {
                "X-Repo-Commit": _commit(found),
                "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
                "X-Linked-Size": str(len(data)),
                "Location": f"{elsewhere}/content/{name}/{file}",
            }
            self._send(302, b"", headers)

    def _content(self, path: str, body: bool) -> None:
        _, owner, name, *rest = path.split("/")
        found, file = self.hub.repositories[f"{owner}/{name}"], "/".join(rest)
        self.hub.asked.append(f"content {self.headers.get('Range', '')}")
        if self.headers.get("Authorization"):
            self.hub.tokens_elsewhere.append(self.headers["Authorization"])
        data = found.files[file]
        if file in found.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        asked = self.headers.get("Range")
        start = 0 if asked is None or found.ignores_ranges else int(asked[len("bytes=") :].split("-")[0])
        headers = {}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.send_response(206 if start else 200)
        for key, value in {**headers, "Content-Length": str(len(data) - start)}.items():
            self.send_header(key, value)
        self.end_headers()
        if body and found.pauses:
            found.pauses = False
            self.wfile.write(data[:PAUSE_AT])
            self.wfile.flush()
            self.hub.paused.set()
            self.hub.go_on.wait(PATIENCE)
            self.close_connection = True
        elif body:
            cut = found.cuts.pop(0) if found.cuts else None
            self.wfile.write(data[start:] if cut is None else data[start : start + cut])
            self.wfile.flush()
            if cut is not None:
                self.close_connection = True

    def _seen(self, name: str) -> Repository | None:
        """The repository; None where the answer has been refused."""
        found = self.hub.repositories.get(name)
        if found is not None and found.status is not None:
            self._refuse(found.status, None)
        elif found is None or (found.access == "private" and not self._knows_token()):
            # The hub does not tell strangers whether a repository is private or missing.
            self._refuse(404 if self._knows_token() else 401, "RepoNotFound")
        else:
            return found
        return None

    def _knows_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _refuse(self, status: int, code: str | None) -> None:
        self._send(status, b'{"error": "refused"}', {} if code is None else {"X-Error-Code": code})

    def _send(self, status: int, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _commit(repository: Repository) -> str:
    """Another one whenever a file changes."""
    everything = b"".join(name.encode() + data for name, data in sorted(repository.files.items()))
    return hashlib.sha1(everything).hexdigest()
