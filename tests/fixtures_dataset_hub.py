"""A hub of datasets on this machine: the protocol that `datasets` and huggingface_hub speak.

Serves folders as dataset repositories over HTTP; a program reaches it with HF_ENDPOINT set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"


class _Repositories(BaseHTTPRequestHandler):
    """Answers for the repositories under `root`."""

    root: Path
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", 0))
        self._answer(self.rfile.read(length))

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, body: bytes = b"") -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "datasets"]:
            folder, rest = self.root / "/".join(parts[2:4]), parts[4:]
            self._describe(folder, "/".join(parts[2:4]), rest, body)
        else:  # datasets/<org>/<name>/resolve/<revision>/<file>
            folder, file = self.root / "/".join(parts[1:3]), "/".join(parts[5:])
            path = folder / file.replace("%20", " ")
            self._send(path.read_bytes() if path.is_file() else None)

    def _describe(self, folder: Path, name: str, rest: list[str], body: bytes) -> None:
        if not folder.is_dir():
            self._send(None, code="RepoNotFound")
        elif rest[:1] == ["tree"]:
            self._json(_entries(folder))
        elif rest[:1] == ["paths-info"]:
            wanted = body.decode()
            self._json([one for one in _entries(folder) if one["path"] in wanted])
        else:
            self._json({"_id": "0", "id": name, "sha": COMMIT, "private": False, "tags": [],
                        "downloads": 0, "likes": 0, "gated": False,
                        "siblings": [{"rfilename": e["path"]} for e in _entries(folder)
                                     if e["type"] == "file"]})  # fmt: skip

    def _json(self, value: Any) -> None:
        self._send(json.dumps(value).encode(), kind="application/json")

    def _send(
        self, data: bytes | None, kind: str = "application/octet-stream", code: str = ""
    ) -> None:
        status, part = (404, b"") if data is None else (200, data)
        wanted = self.headers.get("range", "")
        if data is not None and wanted.startswith("bytes="):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            status, part = 206, data[int(first) : int(last) + 1 if last else None]
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("X-Repo-Commit", COMMIT)
        if data is None:
            self.send_header("X-Error-Code", code or "EntryNotFound")
        else:
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(part)


@contextmanager
def serving_datasets(root: Path) -> Iterator[str]:
    """Serve root/<org>/<name> as repositories; gives the hub's address."""

    handler = type("Handler", (_Repositories,), {"root": root})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _entries(folder: Path) -> list[dict[str, Any]]:
    return [
        {
            "type": "directory" if path.is_dir() else "file",
            "path": path.relative_to(folder).as_posix(),
            "size": path.stat().st_size,
            "oid": "0",
        }
        for path in sorted(folder.rglob("*"))
    ]
