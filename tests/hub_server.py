"""Folders -> a small Hugging Face hub on localhost that serves them as repositories."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


@contextmanager
def serve_hub(repositories):
    """Serve ``{"owner/name": (folder, commit)}``; yield the address and the GET log."""
    downloaded = []
    handler = partial(_Handler, repositories, downloaded)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", downloaded
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, repositories, downloaded, *args):
        self.repositories = repositories
        self.downloaded = downloaded
        super().__init__(*args)

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def do_POST(self):
        """What `HfApi.upload_folder` asks: a commit of files sent inline."""
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        words = self.path.partition("?")[0].strip("/").split("/")
        if words == ["api", "repos", "create"]:
            told = json.loads(content)
            # Without an organization it is one of the owner of the token.
            name = f"{told.get('organization') or 'owner'}/{told['name']}"
            self._send_json({"url": f"{self._address}/{name}"}, True)
        elif words[1] == "validate-yaml":
            self._send_json({"errors": [], "warnings": []}, True)
        elif words[-2] == "preupload":
            paths = [file["path"] for file in json.loads(content)["files"]]
            files = [
                {"path": p, "uploadMode": "regular", "shouldIgnore": False}
                for p in paths
            ]
            self._send_json({"files": files}, True)
        else:
            folder, commit = self.repositories["/".join(words[2:4])]
            for line in content.splitlines():
                told = json.loads(line)
                if told["key"] == "file":
                    path = folder / told["value"]["path"]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(base64.b64decode(told["value"]["content"]))
            url = f"{self._address}/{'/'.join(words[2:4])}/commit/{commit}"
            answer = {"commitUrl": url, "commitOid": commit}
            self._send_json({**answer, "success": True}, True)

    @property
    def _address(self):
        return f"http://{self.headers['Host']}"

    def log_message(self, *args):
        pass

    def _answer(self, body):
        path = unquote(self.path.partition("?")[0]).strip("/")
        is_api = path.startswith("api/models/")
        words = path.removeprefix("api/models/").split("/")
        repository = self.repositories.get("/".join(words[:2]))
        if repository is None:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
            return
        folder, commit = repository
        if is_api and "tree" in words:
            self._send_json(list(_list_tree(folder)), body)
        elif is_api:
            names = [{"rfilename": entry["path"]} for entry in _list_tree(folder)]
            model = {"id": "/".join(words[:2]), "sha": commit, "siblings": names}
            self._send_json(model, body)
        else:
            self._send_file(folder / "/".join(words[4:]), commit, body)

    def _send_file(self, path, commit, body):
        if not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
            return
        content = path.read_bytes()
        if body:
            self.downloaded.append(path.name)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_sha256(content)}"'}
        self._send(200, content, headers, body)

    def _send_json(self, content, body):
        headers = {"Content-Type": "application/json"}
        self._send(200, json.dumps(content).encode(), headers, body)

    def _send(self, status, content, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


def lay_out_cache(cache, repo, commit, folder, ref="main"):
    """Lay out a hub cache as huggingface_hub does: blobs, refs, symlinked snapshot."""
    storage = Path(cache) / f"models--{repo.replace('/', '--')}"
    if ref is not None:
        (storage / "refs").mkdir(parents=True, exist_ok=True)
        (storage / "refs" / ref).write_text(commit)
    (storage / "blobs").mkdir(parents=True, exist_ok=True)
    snapshot = storage / "snapshots" / commit
    for entry in _list_tree(folder):
        content = (folder / entry["path"]).read_bytes()
        blob = storage / "blobs" / _sha256(content)
        blob.write_bytes(content)
        link = snapshot / entry["path"]
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    return snapshot


def _list_tree(folder):
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            yield {
                "type": "file",
                "path": path.relative_to(folder).as_posix(),
                "size": len(content),
                "oid": hashlib.sha1(content).hexdigest(),
            }


def _sha256(content):
    return hashlib.sha256(content).hexdigest()
