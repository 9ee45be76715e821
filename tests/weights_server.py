"""A server with fake official weights, which fails on demand."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from medsaga.network.backbones import catalogue, fetching

CONTENT = np.random.default_rng(0).bytes(3 << 20)
NAME = "sam_vit_b_01ec64.pth"

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Sends the content, or answers as the next of `server.answers` does."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.headers.get("Range"))
        answers = self.server.answers
        (answers.pop(0) if answers else send)(self)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    content = CONTENT
    answers: list[Answer]
    asked: list[str | None]
    go_on: threading.Event

    def handle_error(self, *_: object) -> None:
        """Say nothing of a client that has gone."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{NAME}"


def send(handler: Handler, upto: int | None = None, *, parts: bool = True) -> None:
    """Send what is asked for, of it up to a place, with what is promised whole."""
    content = handler.server.content
    asked = handler.headers.get("Range") if parts else None
    begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
    if asked:
        handler.send_response(206)
        place = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        handler.send_header("Content-Range", place)
    else:
        handler.send_response(200)
    handler.send_header("Content-Length", str(len(content) - begin))
    handler.end_headers()
    handler.wfile.write(content[begin:upto])
    if upto is not None:
        handler.close_connection = True


def cut(upto: int) -> Answer:
    return lambda handler: send(handler, upto)


def without_parts(handler: Handler) -> None:
    send(handler, parts=False)


def status(code: int) -> Answer:
    def answer(handler: Handler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def hold(upto: int) -> Answer:
    """Send a piece, and the rest only when the test says so."""

    def answer(handler: Handler) -> None:
        content = handler.server.content
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:upto])
        handler.server.go_on.wait(30)
        handler.wfile.write(content[upto:])

    return answer


@contextmanager
def serving() -> Iterator[Server]:
    """Serve the weights at a port of this computer."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.answers, server.asked = [], []
        server.go_on = threading.Event()
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.go_on.set()
            server.shutdown()
            thread.join()


def offer_fake(monkeypatch: pytest.MonkeyPatch, url: str, folder: Path) -> None:
    """Have `vit_b` be the fake weights at an address, and `folder` the user's cache."""
    offer(monkeypatch, url)
    monkeypatch.setattr(fetching, "_PAUSES", (0.0, 0.0))
    monkeypatch.delenv("MEDSAGA_WEIGHTS", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HOME", "USERPROFILE", "LOCALAPPDATA", "XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(folder))


def offer(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Put the fake weights into the catalogue."""
    kind = catalogue.BACKBONES["vit_b"]
    checkpoint = dataclasses.replace(
        kind.checkpoint,
        url=url,
        n_bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
    fake = dataclasses.replace(kind, checkpoint=checkpoint)
    kinds = tuple(fake if k.name == "vit_b" else k for k in catalogue._KINDS)
    monkeypatch.setattr(catalogue, "_KINDS", kinds)
    named = MappingProxyType({k.name: k for k in kinds})
    monkeypatch.setattr(catalogue, "BACKBONES", named)
