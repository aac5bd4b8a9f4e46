"""A Hugging Face hub on this machine, in memory: as much of its HTTP as `create_repo`, `upload_folder` and
`snapshot_download` use."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import huggingface_hub
from huggingface_hub import constants


class FakeHub:
    """Repositories by name, each a dict of files; what was asked, as (method, path); what was made, as given."""

    def __init__(self):
        self.repos: dict[str, dict[str, bytes]] = {}
        self.asked: list[tuple[str, str]] = []
        self.made: list[dict] = []
        self.commits: list[str] = []

    def sha(self, repo: str) -> str:
        return hashlib.sha1(repr(sorted(self.repos[repo].items())).encode()).hexdigest()


@contextmanager
def serving(monkeypatch, cache):
    """A hub that huggingface_hub talks to meanwhile."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.utils.tqdm, "disable", True, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 20)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: FakeHub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_GET(self):
            self.answer(self.found)

        def do_HEAD(self):
            self.answer(self.found)

        def do_POST(self):
            self.answer(self.done)

        def answer(self, how):
            path = unquote(urlsplit(self.path).path)
            hub.asked.append((self.command, path))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, content = how(path, body)
            self.send_response(status)
            for key, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def found(self, path, _):
            if info := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+).*)?", path):
                repo, kind, _ = info.groups()
                if repo not in hub.repos:
                    return _refused("RepoNotFound", 401)
                if kind == "tree":
                    files = hub.repos[repo].items()
                    return _json([{"type": "file", "path": n, "size": len(c), "oid": _etag(c)} for n, c in files])
                files = [{"rfilename": name} for name in hub.repos[repo]]
                return _json({"id": repo, "modelId": repo, "sha": hub.sha(repo), "siblings": files, "private": False})
            if file := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
                repo, name = file.groups()
                content = hub.repos.get(repo, {}).get(name)
                if content is None:
                    return _refused("EntryNotFound", 404)
                return 200, {"X-Repo-Commit": hub.sha(repo), "ETag": f'"{_etag(content)}"'}, content
            return _refused("RepoNotFound", 404)

        def done(self, path, body):
            if path == "/api/repos/create":
                given = json.loads(body)
                repo = f"{given.get('organization') or 'user'}/{given['name']}"
                hub.made.append(given)
                hub.repos.setdefault(repo, {})
                return _json({"url": f"{constants.ENDPOINT}/{repo}", "name": repo, "id": repo})
            if path == "/api/validate-yaml":
                return _json({"errors": [], "warnings": []})
            repo, action = re.match(r"/api/models/([^/]+/[^/]+)/(\w+)", path).groups()
            if action == "preupload":
                files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                         for file in json.loads(body)["files"]]  # fmt: skip
                return _json({"files": files})
            if action == "commit":
                for line in map(json.loads, body.decode().splitlines()):
                    if line["key"] == "file":
                        hub.repos[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                    elif line["key"] == "header":
                        hub.commits.append(line["value"]["summary"])
                oid = hub.sha(repo)
                return _json({"commitUrl": f"{constants.ENDPOINT}/{repo}/commit/{oid}", "commitOid": oid})
            return _refused("EntryNotFound", 404)

    return Handler


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _json(value):
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _refused(code: str, status: int):
    return status, {"X-Error-Code": code, "X-Error-Message": "no"}, b'{"error": "no"}'
