"""A small local server that speaks the hub's file URLs: /OWNER/MODEL/resolve/REVISION/FILE."""

import contextlib
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextlib.contextmanager
def serve(models):
    """models: name -> folder. Yields (url, requests); requests are (path, authorization) as they come."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, body):
            requests.append((self.path, self.headers.get("Authorization")))
            owner, model, _, _, file = self.path.lstrip("/").split("?")[0].split("/", 4)
            folder = models.get(f"{owner}/{model}")
            path = Path(folder, file) if folder else None
            if path is None or not path.is_file():
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound" if folder is None else "EntryNotFound")
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = path.read_bytes()
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def do_GET(self):
            self.answer(True)

        def do_HEAD(self):
            self.answer(False)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
