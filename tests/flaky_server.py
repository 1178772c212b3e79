"""A web server on localhost that fails in the ways that real ones do."""

import base64
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FlakyServer(ThreadingHTTPServer):
    """Serves `files` by name; the first folder of a path says how.

    ``/ok/a.png``; ``/drops/2/a.png`` breaks off two answers in the middle;
    ``/stalls/1/a.png`` keeps silent in the first one; ``/fails/2/a.png`` answers 503
    twice; ``/secret/a.png`` wants the password ``user:hush`` or the query ``key=hush``;
    ``/endless/`` never ends and does not say how long it is; ``/page/`` is HTML.
    """

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.asked = Counter()
        self.over = threading.Event()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        pass  # clients that hang up are what is tested


@contextmanager
def flaky_server(files):
    server = FlakyServer(files)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        path, _, query = self.path.partition("?")
        how, *more, name = path.strip("/").split("/")
        self.server.asked[path] += 1
        fault = bool(more) and self.server.asked[path] <= int(more[0])
        if how == "page":
            return self._send(b"<!DOCTYPE html><title>Sign in</title>")
        if how == "endless":
            return self._endless()
        if how == "fails" and fault:
            return self.send_error(503)
        if how == "secret":
            word = "Basic " + base64.b64encode(b"user:hush").decode()
            if query != "key=hush" and self.headers.get("Authorization") != word:
                return self.send_error(403)
        content = self.server.files.get(name)
        if content is None or how not in ("ok", "drops", "stalls", "fails", "secret"):
            return self.send_error(404)
        if not fault or how not in ("drops", "stalls"):
            return self._send(content)
        self._begin(len(content))
        self.wfile.write(content[: len(content) // 2])
        self.wfile.flush()
        if how == "stalls":
            self.server.over.wait()
        self.close_connection = True

    do_HEAD = do_GET

    def _begin(self, length, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def _send(self, content):
        wanted = self.headers.get("Range")
        if wanted:
            start, _, end = wanted.removeprefix("bytes=").partition("-")
            content = content[int(start) : int(end) + 1]
        self._begin(len(content), 206 if wanted else 200)
        if self.command == "GET":
            self.wfile.write(content)

    def _endless(self):
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        while not self.server.over.is_set():
            self.wfile.write(bytes(1 << 16))
