"""A loopback proxy in front of an S3 endpoint that loses, delays or refuses chosen requests, and counts them all."""

from __future__ import annotations

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

# What may be done to a request: lost before or after the service saw it, answered with half a body, left without an
# answer, or answered with a status and an S3 error code.
LOSE_REQUEST, LOSE_ANSWER, HALF_ANSWER, SILENCE = "lose-request", "lose-answer", "half-answer", "silence"
Fault = str | tuple[int, str]


class FaultyEndpoint:
    """`faults` is a list that is used up: (method, part of the URL, fault), each for one matching request."""

    def __init__(self, endpoint: str):
        self.target = urlsplit(endpoint).netloc
        self.faults: list[tuple[str, str, Fault]] = []
        self.seen: list[str] = []  # "METHOD path?query", in order of arrival
        self.ignores_conditions = False  # as a service that knows nothing of If-None-Match
        self.release = threading.Event()  # ends every silence
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def fail(self, method: str, part: str, *faults: Fault) -> None:
        """The next requests with this method and part of the URL meet these faults, one each."""
        self.faults += [(method, part, fault) for fault in faults]

    def count(self, method: str, part: str = "") -> int:
        return sum(line.startswith(f"{method} ") and part in line for line in self.seen)

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _next_fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.seen.append(f"{method} {path}")
            for i, (wanted, part, fault) in enumerate(self.faults):
                if wanted == method and part in path:
                    del self.faults[i]
                    return fault
        return None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Says nothing."""

            def answer(self, status: int, headers: list[tuple[str, str]], body: bytes, length: int) -> None:
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def handle_request(self) -> None:
                sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = endpoint._next_fault(self.command, self.path)
                if fault == SILENCE:
                    endpoint.release.wait()
                if fault in (LOSE_REQUEST, SILENCE):
                    self.close_connection = True
                    return
                if isinstance(fault, tuple):
                    status, code = fault
                    text = f"<Error><Code>{code}</Code><Message>as told</Message></Error>".encode()
                    self.answer(status, [("Content-Type", "application/xml")], text, len(text))
                    return
                connection = http.client.HTTPConnection(endpoint.target, timeout=30)
                dropped = ("connection", "expect", *(["if-none-match"] if endpoint.ignores_conditions else []))
                headers = {k: v for k, v in self.headers.items() if k.lower() not in dropped}
                connection.request(self.command, self.path, sent, headers)
                got = connection.getresponse()
                body = got.read()
                connection.close()
                if fault == LOSE_ANSWER:
                    self.close_connection = True
                    return
                length = int(got.headers.get("Content-Length", len(body))) if self.command == "HEAD" else len(body)
                if fault == HALF_ANSWER:
                    body, self.close_connection = body[: len(body) // 2], True
                self.answer(got.status, got.getheaders(), body, length)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_request

        return Handler
