"""A server whose answers are as long as a test says."""

from contextlib import suppress
from http.server import BaseHTTPRequestHandler


class Answers(BaseHTTPRequestHandler):
    """Answers so many bytes as its server says, with or without the length."""

    def do_POST(self) -> None:
        size, told = self.server.answer  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        if told:
            self.send_header("content-length", str(size))
        self.end_headers()
        with suppress(OSError):  # the client reads no further
            self.wfile.write(bytes(size))

    def log_message(self, *_: object) -> None:
        pass
