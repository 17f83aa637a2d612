"""The two servers that scripts/try shows programs logging in to: HTTP basic and PostgreSQL's clear password.

They know only SHA-256 of what they expect: `demo-server.py HTTP_SHA256 POSTGRES_SHA256` prints both ports.
"""

import hashlib
import http.server
import socketserver
import struct
import sys
import threading

HTTP_SHA256, POSTGRES_SHA256 = sys.argv[1:3]


def is_expected(secret, digest):
    return hashlib.sha256(secret).hexdigest() == digest


class Http(http.server.BaseHTTPRequestHandler):
    """200 for the right Authorization header, 401 for any other."""

    def do_GET(self):
        welcome = is_expected(self.headers.get("Authorization", "").encode(), HTTP_SHA256)
        body = b"http server: the credentials are right\n" if welcome else b"http server: who are you?\n"
        self.send_response(200 if welcome else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Postgres(socketserver.StreamRequestHandler):
    """As much of protocol 3.0 as `psql -c` needs: a clear-text password, then one row for any query."""

    SSL_OR_GSS = (80877103, 80877104)

    def handle(self):
        while True:
            length, code = struct.unpack("!ii", self.rfile.read(8))
            self.rfile.read(length - 8)
            if code not in self.SSL_OR_GSS:
                break
            self.wfile.write(b"N")
        self.send(b"R", struct.pack("!i", 3))
        if not is_expected(self.receive()[1].rstrip(b"\0"), POSTGRES_SHA256):
            self.send(b"E", b"SFATAL\0C28P01\0Mpassword authentication failed\0\0")
            return
        self.send(b"R", struct.pack("!i", 0))
        self.send(b"S", b"server_version\x0015.0\0")
        self.send(b"Z", b"I")
        while self.receive()[0] == b"Q":
            answer = b"postgres server: the password is right"
            self.send(b"T", struct.pack("!h", 1) + b"answer\0" + struct.pack("!ihihih", 0, 0, 25, -1, -1, 0))
            self.send(b"D", struct.pack("!hi", 1, len(answer)) + answer)
            self.send(b"C", b"SELECT 1\0")
            self.send(b"Z", b"I")

    def send(self, kind, body):
        self.wfile.write(kind + struct.pack("!i", len(body) + 4) + body)

    def receive(self):
        kind = self.rfile.read(1)
        if not kind:
            return b"X", b""
        return kind, self.rfile.read(struct.unpack("!i", self.rfile.read(4))[0] - 4)


web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Http)
database = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Postgres)
database.daemon_threads = True
threading.Thread(target=web.serve_forever, daemon=True).start()
print(web.server_port, database.server_address[1], flush=True)
database.serve_forever()
