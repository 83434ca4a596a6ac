"""Local HTTP servers that answer honestly, or not."""

import http.server
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Answer:
    """What a server sends.

    Attributes:
        status: HTTP status.
        content: The body.
        length: What the header says of its length; None for the truth.
        pause: Seconds to wait before each of the body's eighths.
    """

    status: int
    content: bytes
    length: int | None = None
    pause: float = 0.0


class Mirror:
    """A server; a context manager.

    Args:
        answer: Called with a file's name and the number of requests before this one.

    Attributes:
        requested: Names asked for so far.
        url: The server's address.
    """

    def __init__(self, answer: Callable[[str, int], Answer]):
        self.requested: list[str] = []
        self._answer, self._lock = answer, threading.Lock()
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror._serve(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """Say nothing of clients that hang up."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        """Start."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _serve(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        name = handler.path.lstrip("/")
        with self._lock:
            before = len(self.requested)
            self.requested.append(name)
        answer = self._answer(name, before)
        content = answer.content
        handler.send_response(answer.status)
        length = len(content) if answer.length is None else answer.length
        handler.send_header("Content-Length", str(length))
        handler.end_headers()
        step = -(-len(content) // 8) or 1
        for start in range(0, len(content), step):
            time.sleep(answer.pause)
            handler.wfile.write(content[start : start + step])
