"""A proxy before a store: every tenth request fails, in turn by an error, by half an answer and by none."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FailingProxy:
    """Listens on 127.0.0.1; ``address`` is where."""

    def __init__(self, port: int, every: int = 10) -> None:
        self.every, self.seen, self.failed = every, 0, 0
        self.lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                kind = proxy.next()
                if kind == 1:
                    self.send_error(503, "Slow Down")
                    return
                if kind == 3:
                    self.close_connection = True
                    return
                upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
                upstream.request(self.command, self.path, body, dict(self.headers))
                answer = upstream.getresponse()
                content = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content[: len(content) // 2] if kind == 2 else content)
                self.close_connection = self.close_connection or kind == 2
                upstream.close()

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def next(self) -> int:
        """0: pass this request on; else how it fails."""
        with self.lock:
            self.seen += 1
            if self.seen % self.every:
                return 0
            self.failed += 1
            return 1 + (self.failed - 1) % 3

    def close(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def failing_store(monkeypatch: Any, bucket: str) -> Iterator[tuple[Any, FailingProxy]]:
    """A local S3 server with a bucket: a client that reaches it straight, and the proxy that everything else meets."""
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    port = moto.get_host_and_port()[1]
    proxy = FailingProxy(port)
    try:
        for name, value in (("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b"),
                            ("AWS_DEFAULT_REGION", "us-east-1"), ("AWS_ENDPOINT_URL", proxy.address)):  # fmt: skip
            monkeypatch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
        client.create_bucket(Bucket=bucket)
        s3fs.S3FileSystem.clear_instance_cache()
        yield client, proxy
    finally:
        proxy.close()
        moto.stop()
