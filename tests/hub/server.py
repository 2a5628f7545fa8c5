"""A hub on loopback: as much of huggingface.co's HTTP API as huggingface_hub uses to fetch models.

What it answers, and with which headers, is taken from huggingface_hub's own code (`hf_api.py`,
`file_download.py`, `utils/_http.py`): what a model is and which files a revision has, their
content by HEAD and GET (large ones by a redirect to another path, as to the hub's CDN), ranges,
tokens, and the errors that it tells apart by X-Error-Code.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

LFS_NAMES = (".bin", ".safetensors", ".h5", ".msgpack", ".ot", ".model", ".gz", ".onnx")

LIMITED = (
    "Please enable access to public gated repositories in your fine-grained token settings to "
    "view this repository."
)


@dataclass
class HubRepository:
    """commits: the files of each by its hash. refs: branches, tags and refs/pr/N.

    A private one is there only for `tokens`; a gated one is seen by all, and its files are given
    to `tokens` only; `limited_tokens` are of somebody who has access, without that right.
    former_ids: ids that the hub redirects to this one.
    """

    hub_id: str
    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    private: bool = False
    gated: bool = False
    tokens: tuple[str, ...] = ()
    limited_tokens: tuple[str, ...] = ()
    former_ids: tuple[str, ...] = ()

    @classmethod
    def of(cls, hub_id: str, files: dict[str, bytes], **options: Any) -> HubRepository:
        """With one commit, which is main."""
        commit = commit_hash(hub_id, files)
        return cls(hub_id, {commit: files}, {"main": commit}, **options)

    def add(self, ref: str, files: dict[str, bytes]) -> str:
        """A commit that `ref` names; its hash."""
        commit = commit_hash(self.hub_id, files)
        self.commits[commit] = files
        self.refs[ref] = commit
        return commit


def commit_hash(hub_id: str, files: dict[str, bytes]) -> str:
    digest = hashlib.sha1(hub_id.encode())
    for name, content in sorted(files.items()):
        digest.update(name.encode() + hashlib.sha1(content).digest())
    return digest.hexdigest()


@dataclass
class LoopbackHub:
    """endpoint: what HF_ENDPOINT must be.

    fetched: (repository, file) of each file whose content was asked for.
    tokens: those that are somebody's. down: whether it answers nothing but 503.
    """

    endpoint: str = ""
    repositories: dict[str, HubRepository] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    fetched: list[tuple[str, str]] = field(default_factory=list)
    down: bool = False

    def add(self, repository: HubRepository) -> HubRepository:
        self.repositories[repository.hub_id] = repository
        self.tokens.update(repository.tokens, repository.limited_tokens)
        return repository

    def files_of(self, hub_id: str) -> set[str]:
        """The files of a repository that were fetched."""
        return {name for repository, name in self.fetched if repository == hub_id}

    def environment(self, folder: Path) -> dict[str, str]:
        """What huggingface_hub must find in a process of its own; its cache is in `folder`."""
        return {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(folder), "HF_HUB_DISABLE_XET": "1"}


@contextmanager
def loopback_hub() -> Iterator[LoopbackHub]:
    hub = LoopbackHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class _HubError(Exception):
    status: int
    code: str | None
    message: str


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._handle()

    def do_HEAD(self) -> None:
        self._handle()

    def log_message(self, *_: Any) -> None:
        pass

    def _handle(self) -> None:
        path = urlsplit(self.path).path
        try:
            if self.hub.down:
                raise _HubError(503, None, "Service Unavailable")
            if content := re.fullmatch(r"/cdn/([^/]+(?:/[^/]+)?)/(\w{40})/(.+)", path):
                self._content(*(unquote(part) for part in content.groups()))
            elif path.startswith("/api/models/"):
                self._api(path.removeprefix("/api/models/"))
            elif resolve := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
                self._resolve(*(unquote(part) for part in resolve.groups()))
            else:
                raise _HubError(404, None, "Not Found")
        except _HubError as error:
            headers = {"X-Error-Message": error.message}
            if error.code:
                headers["X-Error-Code"] = error.code
            self._send(error.status, json.dumps({"error": error.message}).encode(), headers)

    def _api(self, path: str) -> None:
        hub_id, what, revision, *_ = [*re.split(r"/(revision|tree)/", path, maxsplit=1), "", "main"]
        repository = self._repository(hub_id)
        if repository is None:
            return
        commit, files = self._commit(repository, unquote(revision.partition("/")[0]))
        if what == "tree":
            entries = [_entry(name, content) for name, content in sorted(files.items())]
            self._json(entries)
            return
        self._json(
            {
                "id": repository.hub_id,
                "modelId": repository.hub_id,
                "sha": commit,
                "private": repository.private,
                "gated": "auto" if repository.gated else False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": [{"rfilename": name} for name in sorted(files)],
            }
        )

    def _resolve(self, hub_id: str, revision: str, name: str) -> None:
        repository = self._repository(hub_id)
        if repository is None:
            return
        commit, files = self._commit(repository, revision)
        self._check_gate(repository)
        if name not in files:
            raise _HubError(404, "EntryNotFound", "Entry not found")
        if not name.endswith(LFS_NAMES):
            self._content(repository.hub_id, commit, name)
            return
        content = files[name]
        self._send(
            302,
            b"",
            {
                "Location": f"{self.hub.endpoint}/cdn/{repository.hub_id}/{commit}/{name}",
                "X-Repo-Commit": commit,
                "X-Linked-Size": str(len(content)),
                "X-Linked-ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            },
        )

    def _content(self, hub_id: str, commit: str, name: str) -> None:
        content = self.hub.repositories[hub_id].commits[commit][name]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_oid(content)}"', "Accept-Ranges": "bytes"}
        status = 200
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            status, start = 206, int(asked[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content = content[start:]
        if self.command == "GET":
            self.hub.fetched.append((hub_id, name))
        self._send(status, content, headers)

    def _repository(self, hub_id: str) -> HubRepository | None:
        """None where it was answered with a redirect to its new id."""
        token = self._token()
        if token is not None and token not in self.hub.tokens:
            raise _HubError(401, None, "Invalid credentials in Authorization header")
        for repository in self.hub.repositories.values():
            if hub_id in repository.former_ids:
                location = self.path.replace(hub_id, repository.hub_id, 1)
                self._send(307, b"", {"Location": location})
                return None
        found = self.hub.repositories.get(hub_id)
        if found is None or (found.private and token not in found.tokens):
            # The hub does not say of a private repository that it is there.
            status = 401 if token is None else 404
            raise _HubError(status, "RepoNotFound", "Repository not found")
        return found

    def _check_gate(self, repository: HubRepository) -> None:
        token = self._token()
        if token in repository.limited_tokens:
            raise _HubError(403, None, LIMITED)
        if repository.gated and token not in repository.tokens:
            message = f"Access to model {repository.hub_id} is restricted"
            raise _HubError(401 if token is None else 403, "GatedRepo", message)

    def _commit(self, repository: HubRepository, revision: str) -> tuple[str, dict[str, bytes]]:
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            raise _HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, repository.commits[commit]

    def _token(self) -> str | None:
        header = self.headers.get("Authorization")
        return header.removeprefix("Bearer ") if header else None

    def _json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    """git's hash of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(name: str, content: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}
    if name.endswith(LFS_NAMES):
        digest = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
    return entry
