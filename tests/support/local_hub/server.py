"""The part of the hub's protocol that loading models and data sets needs."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.local_hub.faults import Drop, Fault, OtherCommit, Status, Truncate
from tests.support.local_hub.repositories import Repositories, UnknownRevision, git_id

_NAME = r"(?P<name>[^/]+/[^/]+)"
_FILE = re.compile(rf"(?P<kind>datasets/)?{_NAME}/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_INFO = re.compile(rf"api/(?P<kind>models|datasets)/{_NAME}(/revision/(?P<revision>[^/]+))?")
_TREE = re.compile(rf"api/(?P<kind>models|datasets)/{_NAME}/tree/(?P<revision>[^/]+)(/(?P<below>.+))?")
_PATHS = re.compile(rf"api/(?P<kind>models|datasets)/{_NAME}/paths-info/(?P<revision>[^/]+)")
_DATE = "2025-01-01T00:00:00.000Z"


class LocalHub:
    """A running hub; use it as a context manager.

    Attributes:
        repositories: what it holds.
        faults: what goes wrong from now on; the first that concerns a request counts.
        log: method and path of every request.
        endpoint: its address, for `HF_ENDPOINT`.
    """

    def __init__(self, root: Path, faults: Sequence[Fault] = ()) -> None:
        self.repositories, self.faults = Repositories(root), tuple(faults)
        self.log: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self, home: Path) -> dict[str, str]:
        """Variables under which a process asks this hub and keeps its cache in `home`."""
        switches = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
        return {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_ETAG_TIMEOUT": "2", **switches}

    def __enter__(self) -> LocalHub:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    hub: LocalHub
    fault: Fault | None

    def log_message(self, *_: Any) -> None:
        """Keeps the terminal quiet; `LocalHub.log` has the requests."""

    def do_GET(self) -> None:
        """Answers, unless a fault comes first."""
        path = unquote(urlsplit(self.path).path)[1:]
        self.hub.log.append(f"{self.command} {path}")
        self.fault = next((f for f in self.hub.faults if f.concerns(self.command, path)), None)
        if isinstance(self.fault, Drop):
            self.close_connection = True
        elif isinstance(self.fault, Status):
            self._refuse(self.fault.status, self.fault.code)
        else:
            self._route(path)

    do_HEAD = do_POST = do_GET  # noqa: N815 - the names that the base class looks for

    def _route(self, path: str) -> None:
        routes: tuple[tuple[re.Pattern[str], Callable[..., None]], ...] = (
            (_TREE, self._tree),
            (_PATHS, self._paths),
            (_INFO, self._info),
            (_FILE, self._file),
        )
        for pattern, answer in routes:
            if match := pattern.fullmatch(path):
                parts = match.groupdict()
                kind = (parts.pop("kind") or "models").rstrip("/")
                try:
                    commit = self._commit(kind, parts["name"], parts.pop("revision") or "main")
                except UnknownRevision:
                    return self._refuse(404, "RevisionNotFound")
                return answer(kind, commit=commit, **parts)
        return self._refuse(404, "RepoNotFound")

    def _commit(self, kind: str, name: str, revision: str) -> str:
        other = self.fault.commit if isinstance(self.fault, OtherCommit) else None
        return self.hub.repositories.commit(kind, name, other or revision)

    def _info(self, kind: str, name: str, commit: str) -> None:
        siblings = [{"rfilename": path} for path in self.hub.repositories.files(kind, name, commit)]
        flags = {"private": False, "gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": []}
        dates = {"lastModified": _DATE, "createdAt": _DATE}
        self._json({"_id": commit[:24], "id": name, "sha": commit, "siblings": siblings, **flags, **dates})

    def _tree(self, kind: str, name: str, commit: str, below: str | None) -> None:
        entries = self.hub.repositories.entries(kind, name, commit)
        start = f"{below}/" if below else ""
        deep = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
        inside = {path: entry for path, entry in entries.items() if path.startswith(start)}
        self._json([entry for path, entry in inside.items() if deep or "/" not in path[len(start) :]])

    def _paths(self, kind: str, name: str, commit: str) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
        entries = self.hub.repositories.entries(kind, name, commit)
        self._json([entries[path] for path in asked if path in entries])

    def _file(self, kind: str, name: str, commit: str, file: str) -> None:
        path = self.hub.repositories.files(kind, name, commit).get(file)
        if path is None:
            return self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        data = path.read_bytes()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_id(data)}"', "Accept-Ranges": "bytes"}
        begin = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if begin is None:
            return self._send(200, data, headers)
        first = int(begin[1])
        span = f"bytes {first}-{len(data) - 1}/{len(data)}"
        return self._send(206, data[first:], {**headers, "Content-Range": span})

    def _refuse(self, status: int, code: str, headers: Mapping[str, str] | None = None) -> None:
        named = {"X-Error-Code": code} if code else {}
        self._send(status, json.dumps({"error": code or f"status {status}"}).encode(), {**named, **(headers or {})})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(self.fault, Truncate) and status < 300:
            body, self.close_connection = body[: self.fault.length], True
        self.wfile.write(body)
