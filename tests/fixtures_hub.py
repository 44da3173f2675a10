"""A hub on this machine: the hub's own protocol, as far as describing models needs it.

Serves folders as repositories to huggingface_hub's real client, which talks to it over HTTP, and
counts the bytes that it sends.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class LocalHub:
    """Repositories by id; `cards` are model cards' metadata, `gated` ids refuse their files."""

    folders: dict[str, Path]
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    url: str = ""
    sent: int = 0
    asked: list[str] = field(default_factory=list)

    def files(self, name: str) -> dict[str, Path]:
        folder = self.folders[name]
        return {
            path.relative_to(folder).as_posix(): path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }


@contextmanager
def serving(hub: LocalHub) -> Iterator[LocalHub]:
    """Serve until the block is left."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            _answer(hub, self, body=False)

        def do_GET(self) -> None:
            _answer(hub, self, body=True)

        def log_message(self, format: str, *args: Any) -> None:
            hub.asked.append(format % args)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(hub: LocalHub, handler: BaseHTTPRequestHandler, *, body: bool) -> None:
    parts = handler.path.partition("?")[0].strip("/").split("/")
    if parts[:2] == ["api", "models"]:
        name, revision = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main"
    else:
        name, revision = "/".join(parts[:2]), parts[3] if len(parts) > 3 else "main"
    if name not in hub.folders:
        return _refuse(handler, 404, "RepoNotFound")
    if revision not in ("main", COMMIT):
        return _refuse(handler, 404, "RevisionNotFound")
    if parts[:2] == ["api", "models"]:
        described = json.dumps(_description(hub, name)).encode()
        return _send(hub, handler, described, "application/json", body)
    if name in hub.gated:
        return _refuse(handler, 403, "GatedRepo")
    file = hub.files(name).get("/".join(parts[4:]))
    if file is None:
        return _refuse(handler, 404, "EntryNotFound")
    return _send(hub, handler, file.read_bytes(), "application/octet-stream", body)


def _description(hub: LocalHub, name: str) -> dict[str, Any]:
    return {
        "_id": "0",
        "id": name,
        "sha": COMMIT,
        "private": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "gated": "manual" if name in hub.gated else False,
        "cardData": hub.cards.get(name, {}),
        "siblings": [
            {"rfilename": file, "size": path.stat().st_size, "blobId": "0"}
            for file, path in hub.files(name).items()
        ],
    }


def _send(
    hub: LocalHub, handler: BaseHTTPRequestHandler, data: bytes, kind: str, body: bool
) -> None:
    wanted = handler.headers.get("range", "")
    status, part = 200, data
    if wanted.startswith("bytes="):
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        status, part = 206, data[int(first) : int(last) + 1]
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(part)))
    handler.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
    handler.send_header("X-Repo-Commit", COMMIT)
    handler.end_headers()
    if body:
        hub.sent += len(part)
        handler.wfile.write(part)


def _refuse(handler: BaseHTTPRequestHandler, status: int, code: str) -> None:
    handler.send_response(status)
    handler.send_header("X-Error-Code", code)
    handler.send_header("X-Repo-Commit", COMMIT)
    handler.send_header("Content-Length", "0")
    handler.end_headers()
