"""Forty kinds of bad requests, sent over plain sockets: what each is, and the statuses that are a clear refusal.

The service must run with ``SERVICE_OPTIONS``: small bounds, so that the kinds are quick to send.
"""

import base64
import io
import json
import socket
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

SERVICE_OPTIONS = (
    "--max-body",
    "300K",
    "--max-pixels",
    "2000000",
    "--body-timeout",
    "1",
    "--max-captions",
    "8",
)
SECRET = "Zanzibar-7741"
"""Stands in what is sent; no answer may hold it."""
BOUNDARY = "b0undary"


def photo(size: tuple[int, int] = (64, 48), kind: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(stream, kind, **options)
    return stream.getvalue()


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in a few kilobytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


def part(name: str, content: bytes, more: str = "") -> bytes:
    return (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode()
        + content
        + b"\r\n"
    )


def form(*parts: bytes, end: bytes = f"--{BOUNDARY}--\r\n".encode()) -> bytes:
    return b"".join(parts) + end


def post(
    body: bytes,
    kind: str = f"multipart/form-data; boundary={BOUNDARY}",
    path: str = "/v1/score",
    headers: str = "",
    length: int | None = None,
) -> bytes:
    size = len(body) if length is None else length
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n{headers}\r\n"
    )
    return head.encode("latin-1") + body


def as_json(content: Any, path: str = "/v1/score") -> bytes:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return post(body, "application/json", path)


def photo_part(content: bytes) -> bytes:
    """A form with this photo and a caption."""
    return post(form(part("photo", content), CAPTION))


def caption_part(content: bytes, more: str = "") -> bytes:
    """A form with a good photo and this caption."""
    return post(form(PHOTO, part("captions", content, more)))


def slow_body() -> list[bytes]:
    whole = post(form(PHOTO, CAPTION))
    return [whole[:250], whole[250:260]]


JPEG = photo()
CODED = base64.b64encode(JPEG).decode()
PHOTO = part("photo", JPEG, '; filename="p.jpg"')
TRANSFER = "\r\nContent-Transfer-Encoding: base64"
NEGATIVE = post(b"{}", "application/json").replace(b"Content-Length: 2", b"Content-Length: -2")
MANY_HEADERS = "".join(f"X-{i}: {SECRET}\r\n" for i in range(2000))
CAPTION = part("captions", f"a dog {SECRET}".encode())


@dataclass(frozen=True)
class Kind:
    """One kind of bad request."""

    name: str
    sent: bytes | Callable[[], list[bytes]]
    statuses: tuple[int, ...]


KINDS = (
    Kind("no body", post(b""), (400,)),
    Kind("form without parts", post(form()), (400, 422)),
    Kind("no photo", post(form(CAPTION)), (422,)),
    Kind("no caption", post(form(PHOTO)), (422,)),
    Kind("two photos", post(form(PHOTO, PHOTO, CAPTION)), (400,)),
    Kind("unknown field", post(form(PHOTO, CAPTION, part(SECRET, b"1"))), (400,)),
    Kind("caption not UTF-8", caption_part(b"\xff\xfe\xe4"), (400,)),
    Kind(
        "caption declared Latin-1",
        post(form(PHOTO, part("captions", b"a dog", "\r\nContent-Type: text/plain; charset=latin-1"))),
        (400,),
    ),
    Kind("caption as a file", caption_part(b"a dog", '; filename="/etc/passwd"'), (400,)),
    Kind("closing boundary missing", post(form(PHOTO, CAPTION, end=b"")), (400,)),
    Kind("cut in the middle of the photo", post(form(PHOTO, CAPTION)[:300]), (400,)),
    Kind(
        "another boundary in the body",
        post(form(PHOTO, CAPTION).replace(BOUNDARY.encode(), b"other")),
        (400,),
    ),
    Kind("no boundary named", post(form(PHOTO, CAPTION), "multipart/form-data"), (400,)),
    Kind("part without a name", post(form(b"--" + BOUNDARY.encode() + b"\r\n\r\nx\r\n", PHOTO)), (400,)),
    Kind(
        "part transfer-encoded",
        post(form(part("photo", CODED.encode(), "\r\nContent-Transfer-Encoding: base64"), CAPTION)),
        (400,),
    ),
    Kind("a thousand captions", post(form(PHOTO, *[part("captions", b"a dog")] * 1000)), (422,)),
    Kind("more captions than the bound", post(form(PHOTO, *[part("captions", b"a dog")] * 9)), (422,)),
    Kind("caption of 100,000 characters", caption_part(b"x" * 100_000), (422,)),
    Kind("empty photo", photo_part(b""), (400,)),
    Kind("photo cut short", photo_part(photo((400, 300))[:2000]), (422,)),
    Kind("photo that is text", photo_part(f"{SECRET} is no photo".encode()), (422,)),
    Kind(
        "photo of another kind (EPS)",
        post(form(part("photo", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), CAPTION)),
        (422,),
    ),
    Kind("decompression bomb", photo_part(bomb()), (413,)),
    Kind(
        "photo above the pixel bound",
        post(form(part("photo", photo((2000, 1500), quality=20)), CAPTION)),
        (413,),
    ),
    Kind(
        "path in the place of a photo",
        as_json({"photo": f"/etc/passwd-{SECRET}", "captions": ["a dog"]}),
        (422,),
    ),
    Kind(
        "address in the place of a photo",
        as_json({"photo": f"http://169.254.169.254/{SECRET}", "captions": ["a dog"]}),
        (422,),
    ),
    Kind("JSON cut short", as_json(b'{"photo": "abc", "captions": ["a'), (400,)),
    Kind("JSON NaN", as_json(b'{"text": "a dog", "top": NaN, "photo": null}', "/v1/embed"), (400,)),
    Kind("JSON nested 100,000 deep", as_json(b"[" * 100_000 + b"]" * 100_000), (400,)),
    Kind("JSON not UTF-8", as_json(b'{"captions": ["\xff"]}'), (400,)),
    Kind("JSON field twice", as_json(b'{"texts": ["a dog"], "texts": ["a cat"]}', "/v1/embed"), (400,)),
    Kind("JSON list", as_json(["photo", SECRET]), (422,)),
    Kind("wrong types", as_json({"photo": 1, "captions": SECRET, "preset": ["paper"]}), (422,)),
    Kind("unknown preset", as_json({"photo": CODED, "captions": ["a dog"], "preset": SECRET}), (422,)),
    Kind("unknown JSON field", as_json({"photo": CODED, "captions": ["a dog"], SECRET: 1}), (422,)),
    Kind("another content type", post(JPEG, "image/jpeg"), (415,)),
    Kind(
        "compressed body",
        post(zlib.compress(b"{}"), "application/json", headers="Content-Encoding: deflate\r\n"),
        (415,),
    ),
    Kind("body above the bound, announced", post(b"", length=10**9), (413,)),
    Kind("body above the bound, chunked", lambda: chunked(400_000), (413,)),
    Kind(
        "Content-Length that is no number",
        NEGATIVE,
        (400,),
    ),
    Kind(
        "both lengths",
        post(b"0\r\n\r\n", "application/json", headers="Transfer-Encoding: chunked\r\n"),
        (400,),
    ),
    Kind(
        "headers of 100 KB", post(b"{}", "application/json", headers=f"X-A: {'a' * 100_000}\r\n"), (400, 431)
    ),
    Kind(
        "2,000 headers",
        post(b"{}", "application/json", headers="".join(f"X-{i}: {SECRET}\r\n" for i in range(2000))),
        (400, 431),
    ),
    Kind("address of 50 KB", post(b"{}", "application/json", path="/v1/score?a=" + "a" * 50_000), (400, 414)),
    Kind("slow body", slow_body, (408,)),
    Kind("path out of the page's folder", b"GET /page/..%2f..%2fapp.py HTTP/1.1\r\nHost: x\r\n\r\n", (404,)),
    Kind("path out of the root", b"GET /../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", (400, 404)),
    Kind("no such endpoint", post(b"{}", "application/json", path=f"/v1/{SECRET}"), (404,)),
    Kind("another method", b"DELETE /v1/score HTTP/1.1\r\nHost: x\r\n\r\n", (405,)),
    Kind("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", (400,)),
)


def chunked(size: int) -> list[bytes]:
    head = (
        f"POST /v1/score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    ).encode()
    return [head] + [b"4000\r\n" + bytes(0x4000) + b"\r\n"] * (size // 0x4000)


def send(port: int, kind: Kind) -> tuple[int, bytes]:
    """Status (0: none) and the whole answer."""
    pieces = kind.sent() if callable(kind.sent) else [kind.sent]
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
                if len(pieces) == 2:
                    time.sleep(0.1)
        except OSError:
            pass  # refused before all was sent: its answer is read below
        answer = read_answer(connection)
    line = answer.partition(b"\r\n")[0].split()
    return (int(line[1]) if len(line) > 1 else 0), answer


def read_answer(connection: socket.socket) -> bytes:
    """Headers, and as much body as they announce."""
    answer = b""
    try:
        while piece := connection.recv(65536):
            answer += piece
            head, ended, body = answer.partition(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if ended and lengths and len(body) >= int(lengths[0].split(b":")[1]):
                break
    except OSError:
        pass
    return answer


def send_all(port: int) -> list[dict[str, Any]]:
    """Every kind with the status and the code of its answer."""
    rows = []
    for kind in KINDS:
        status, answer = send(port, kind)
        body = answer.partition(b"\r\n\r\n")[2]
        try:
            code = json.loads(body)["error"]["code"]
        except (ValueError, KeyError, TypeError):
            code = body[:60].decode("latin-1")
        rows.append({"kind": kind.name, "status": status, "code": code, "expected": kind.statuses})
    return rows
