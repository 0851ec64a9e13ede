"""A real HTTP server on loopback that breaks, lies and counts as it is told."""

from __future__ import annotations

import hashlib
import http.server
import re
import socket
import time
from dataclasses import dataclass, field

import numpy as np

BODY = np.random.default_rng(0).bytes(700_000)
HTML = b"<!DOCTYPE html><html><title>Not found</title></html>"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Site:
    """What the server does, and what it was asked."""

    body: bytes = BODY
    ranges: bool = True
    breaks: list[int] = field(default_factory=list)  # bytes after which the next answers break off, in whole CHUNKs
    status: int = 200
    html: bool = False
    delay: float = 0  # seconds after each 64 KiB
    url: str = ""
    asked: list[str | None] = field(default_factory=list)  # the Range header of each request


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        site = self.server.site
        asked = self.headers.get("Range")
        site.asked.append(asked)
        body = HTML if site.html else site.body
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and site.ranges else 0
        if start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else site.status)
        self.send_header("Content-Type", "text/html" if site.html else "application/octet-stream")
        if not site.html:
            self.send_header("Content-Disposition", 'attachment; filename="weights.pth"')
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        end = start + site.breaks.pop(0) if site.breaks else len(body)
        for i in range(start, min(end, len(body)), 1 << 16):
            self.wfile.write(body[i : min(i + (1 << 16), end)])
            time.sleep(site.delay)
        if end < len(body):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_CONNECT(self):  # as a proxy: answer in the other site's name, with our certificate
        self.send_response(200)
        self.end_headers()
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.handle_one_request()
        self.close_connection = True

    def log_message(self, *args):
        pass
