"""The service under load on this machine's loopback, beside the library in the same run.

    python -m benchmarks.serve_load                         # closed loop and open loop of 60 s, start: about 5 minutes
    python -m benchmarks.serve_load --seconds 10            # short
    python -m benchmarks.serve_load --cases start,bad

Cases:

- closed: wrk with 16 connections; one 500 x 375 JPEG with three captions a request (200 different Flickr8k photos,
  brought to that size), beside `Scorer.score` of the same 600 pairs from bytes in a process of its own, before and
  after;
- open: four times that rate, whether answers come or not, each request on a connection of its own; then half of what
  the service can do for 10 s, to see when latency is normal again;
- start: from the start of the process to the first answer, beside importing fastapi, uvicorn and onnxruntime;
- bad: the kinds of bad requests of tests/serve/bad_requests.py, each with its answer.

Every loop ends by itself. Rows are written to ``benchmarks/results/serve_load-CPU-CORES.json``.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import uvloop
from benchmarks.score_speed import DATA, HERE
from PIL import Image

PHOTOS = 200
BOUNDARY = "cliplet-boundary"
WRK = """
local bodies, at = {}, 0
for i = 0, %d do
  local file = io.open("%s/" .. i .. ".body", "rb")
  local kind = "multipart/form-data; boundary=%s"
  bodies[i + 1] = wrk.format("POST", "/v1/score", {["Content-Type"] = kind}, file:read("*a"))
  file:close()
end
request = function() at = at %% #bodies + 1; return bodies[at] end
done = function(summary, latency)
  print(string.format("RESULT %%d %%d %%d %%f %%f %%f", summary.requests, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""
LIBRARY = """
import sys, time, json
from pathlib import Path
from cliplet import Scorer
folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
groups = json.loads((folder / "captions.json").read_text())
images = [photo for i, group in enumerate(groups) for photo in [(folder / f"{i}.jpg").read_bytes()] * len(group)]
captions = [caption for group in groups for caption in group]
scorer = Scorer()
scorer.score(images[:30], captions[:30])
start, cpu, pairs = time.perf_counter(), time.process_time(), 0
while time.perf_counter() - start < seconds:
    result = scorer.score(images, captions)
    assert not any(result.failures)
    pairs += len(images)
wall = time.perf_counter() - start
print(json.dumps({"rate": pairs / wall, "cpu_ms": 1000 * (time.process_time() - cpu) / pairs}))
"""


@dataclass
class Running:
    """A service in a process of its own."""

    process: "subprocess.Popen[bytes]"
    port: int
    first_answer: float
    """Seconds from its start to its first answer."""

    def cpu_seconds(self) -> float:
        """Processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def megabytes(self) -> float:
        """Resident memory now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def stop(self) -> int:
        """End it as an operator would; its status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


def environment() -> dict[str, str]:
    """Ours, with all cores for BLAS and OpenMP: the library runs as it does for a user."""
    return {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}


def start_service(*options: str) -> Running:
    """Start ``cliplet serve`` on a free port and wait for its first answer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "cliplet", "serve", "--port", str(port), *options],
        env=environment(), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while time.perf_counter() - began < 60:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                if connection.recv(100).startswith(b"HTTP/1.1 200"):
                    return Running(process, port, time.perf_counter() - began)
        except OSError:
            time.sleep(0.005)
        if process.poll() is not None:
            break
    raise SystemExit("the service did not start")


def write_load(folder: Path) -> None:
    """200 photos with three captions each, the bodies of their requests, and wrk's script."""
    captions: dict[str, list[str]] = {}
    for line in (DATA / "flickr8k" / "Flickr8k.token.txt").read_text(encoding="utf-8").splitlines():
        name, _, caption = line.partition("\t")
        captions.setdefault(name.partition("#")[0], []).append(caption)
    groups = []
    for name, photo in islice(photos_of(DATA / "flickr8k" / "images_dev.tar"), PHOTOS):
        (folder / f"{len(groups)}.jpg").write_bytes(photo)
        (folder / f"{len(groups)}.body").write_bytes(body_of(photo, captions[name][:3]))
        groups.append(captions[name][:3])
    (folder / "captions.json").write_text(json.dumps(groups))
    (folder / "load.lua").write_text(WRK % (len(groups) - 1, folder, BOUNDARY))


def photos_of(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of the photos in a tar, as JPEGs of 500 x 375 pixels (the set at hand has 224 x 224)."""
    with tarfile.open(path) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isfile() else None
            if stream is not None:
                made = BytesIO()
                photo = (
                    Image.open(BytesIO(stream.read()))
                    .convert("RGB")
                    .resize((500, 375), Image.Resampling.BICUBIC)
                )
                photo.save(made, "JPEG", quality=92)
                yield Path(member.name).name, made.getvalue()


def body_of(photo: bytes, captions: list[str]) -> bytes:
    """A request's form."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="photo"; filename="p.jpg"\r\n\r\n'.encode()
    texts = "".join(
        f'\r\n--{BOUNDARY}\r\nContent-Disposition: form-data; name="captions"\r\n\r\n{text}'
        for text in captions
    )
    return head + photo + texts.encode() + f"\r\n--{BOUNDARY}--\r\n".encode()


def library(folder: Path, seconds: float) -> dict[str, float]:
    """`Scorer.score` on the same pairs, batched."""
    done = subprocess.run(
        [sys.executable, "-c", LIBRARY, str(folder), str(seconds)],
        env=environment(), stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def closed(service: Running, folder: Path, seconds: float) -> dict[str, Any]:
    """16 clients, each sending its next request when the last is answered."""
    cpu, memory = service.cpu_seconds(), [service.megabytes()]
    wrk = subprocess.Popen(
        ["wrk", "-t1", "-c16", f"-d{int(seconds)}s", "--timeout", "30s", "-s", str(folder / "load.lua"),
         f"http://127.0.0.1:{service.port}"], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    while wrk.poll() is None:
        time.sleep(1)
        memory.append(service.megabytes())
    found = re.search(r"RESULT (\d+) (\d+) (\d+) ([\d.]+) ([\d.]+) ([\d.]+)", wrk.communicate()[0])
    assert found is not None
    requests, refused, lost, wall, p50, p99 = map(float, found.groups())
    pairs = 3 * (requests - refused)
    third = max(1, len(memory) // 3)
    return {
        "rate": pairs / wall, "refused": int(refused), "lost": int(lost), "p50_ms": p50, "p99_ms": p99,
        "cpu_ms": 1000 * (service.cpu_seconds() - cpu) / max(pairs, 1),
        "memory_first_third_mb": max(memory[1 : third + 1]), "memory_last_third_mb": max(memory[-third:]),
    }  # fmt: skip


class OneRequest(asyncio.Protocol):
    """One request on a connection of its own; kept small, for it shares the cores with the service."""

    def __init__(self, content: bytes, answered: "asyncio.Future[int]") -> None:
        self.content, self.answered, self.head = content, answered, b""

    def connection_made(self, transport: Any) -> None:
        """Send all of it."""
        self.transport = transport
        transport.write(self.content)

    def data_received(self, data: bytes) -> None:
        """The status stands in the first line."""
        self.head += data
        if len(self.head) >= 12 and not self.answered.done():
            self.answered.set_result(int(self.head[9:12]))
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Lost, unless the answer came before."""
        if not self.answered.done():
            self.answered.set_result(0)


async def send_one(port: int, body: bytes) -> tuple[int, float]:
    """Status (0: lost) and seconds of one request."""
    began = time.perf_counter()
    head = (
        f"POST /v1/score HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[int] = loop.create_future()
    try:
        await loop.create_connection(lambda: OneRequest(head.encode() + body, answered), "127.0.0.1", port)
        async with asyncio.timeout(40):
            return await answered, time.perf_counter() - began
    except (OSError, TimeoutError):
        return 0, time.perf_counter() - began


async def open_loop(
    port: int, bodies: list[bytes], rate: float, seconds: float
) -> list[tuple[float, int, float]]:
    """Send ``rate`` requests a second whether answers come or not: (when sent, status, seconds) of each."""
    began, tasks, sent = time.perf_counter(), [], []
    for i in range(int(rate * seconds)):
        wait = began + i / rate - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        sent.append(time.perf_counter() - began)
        tasks.append(asyncio.create_task(send_one(port, bodies[i % len(bodies)])))
    answers = await asyncio.gather(*tasks)
    return [(when, status, took) for when, (status, took) in zip(sent, answers, strict=True)]


def overload(service: Running, folder: Path, rate: float, seconds: float, normal_ms: float) -> dict[str, Any]:
    """Four times what the service can do, then half of what it can."""
    bodies = [path.read_bytes() for path in sorted(folder.glob("*.body"))]

    async def both() -> tuple[list[Any], list[Any], float, float]:
        peak = service.megabytes()
        began = time.perf_counter()
        loop = asyncio.create_task(open_loop(service.port, bodies, 4 * rate / 3, seconds))
        while not loop.done():
            await asyncio.sleep(0.5)
            peak = max(peak, service.megabytes())
        wall = time.perf_counter() - began
        return await loop, await open_loop(service.port, bodies, rate / 6, 10), peak, wall

    own = time.process_time()
    during, after, peak, wall = uvloop.run(both())
    own = time.process_time() - own
    counts = {
        str(status): sum(s == status for _, s, _ in during) for status in sorted({s for _, s, _ in during})
    }
    limit = 2 * normal_ms / 1000
    slow = [when for when, status, took in after if status != 200 or took > limit]
    good = sorted(1000 * took for _, status, took in during if status == 200)
    return {
        "sent": len(during), "answers": counts, "lost": counts.get("0", 0), "goodput": 3 * counts.get("200", 0) / wall,
        "peak_memory_mb": peak, "p50_ms": statistics.median(good) if good else None,
        "client_cores": own / (wall + 10),
        "normal_again_after_s": max(slow, default=0.0),
    }  # fmt: skip


def start_up(repeat: int) -> dict[str, float]:
    """Medians of ``repeat`` turns."""
    imports, answers = [], []
    for _ in range(repeat):
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", "import fastapi, uvicorn, onnxruntime"], env=environment(), check=True
        )
        imports.append(time.perf_counter() - began)
        service = start_service()
        answers.append(service.first_answer)
        service.stop()
    return {"imports_s": statistics.median(imports), "first_answer_s": statistics.median(answers)}


def bad() -> list[dict[str, Any]]:
    """Every kind of bad request with its answer."""
    from tests.serve.bad_requests import SERVICE_OPTIONS, send_all

    service = start_service(*SERVICE_OPTIONS)
    try:
        return send_all(service.port)
    finally:
        service.stop()


def machine() -> str:
    """The processor and how many cores."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    names = re.findall(r"^model name\s*:\s*(.+)", info, re.M)
    return f"{names[0] if names else 'unknown'} {os.cpu_count()} cores"


def table(rows: list[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="closed,open,start,bad")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--repeat", type=int, default=5, help="turns of the start")
    arguments = parser.parse_args()
    cases = arguments.cases.split(",")
    results: dict[str, Any] = {"machine": machine(), "seconds": arguments.seconds}
    if "closed" in cases or "open" in cases:
        if not shutil.which("wrk"):
            parser.error(
                "closed and open need the program wrk (apt-get install wrk); --cases start,bad do without"
            )
        folder = Path(tempfile.mkdtemp(prefix="serve-load-"))
        try:
            write_load(folder)
            load(folder, arguments.seconds, "open" in cases, results)
        finally:
            shutil.rmtree(folder)
    if "start" in cases:
        results["start"] = found = start_up(arguments.repeat)
        table([
            ("start: importing fastapi, uvicorn, onnxruntime", f"{found['imports_s']:.2f} s"),
            ("start: first answer", f"{found['first_answer_s']:.2f} s"),
            ("start: more than the imports", f"{found['first_answer_s'] - found['imports_s']:.2f} s"),
        ])  # fmt: skip
    if "bad" in cases:
        results["bad"] = bad()
        for row in results["bad"]:
            print(f"{row['status']:>4}  {row['kind']:<45} {row['code']}")
    name = re.sub(r"\W+", "-", results["machine"]).strip("-")
    path = HERE / "results" / f"serve_load-{name}.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(path.name)


def load(folder: Path, seconds: float, with_open: bool, results: dict[str, Any]) -> None:
    """Closed loop, and open loop where asked for, between two runs of the library."""
    share = min(seconds, 15)
    before = library(folder, share)
    service = start_service()
    try:
        closed(service, folder, 3)
        found = closed(service, folder, seconds)
        after = library(folder, share)
        own = (before["rate"] + after["rate"]) / 2
        found |= {"library_before": before, "library_after": after, "ratio": found["rate"] / own}
        results["closed"] = found
        cpu = f"{found['cpu_ms']:.2f} ms (library {before['cpu_ms']:.2f}, {after['cpu_ms']:.2f})"
        p50, p99 = found["p50_ms"], found["p99_ms"]
        table([
            ("library, before and after", f"{before['rate']:.0f}, {after['rate']:.0f} pairs/s"),
            ("16 clients", f"{found['rate']:.0f} pairs/s, {found['ratio']:.2f} of the library"),
            ("processor time a pair", cpu),
            ("latency p50, p99", f"{p50:.0f}, {p99:.0f} ms ({p99 / p50:.1f} times)"),
            ("refused, lost", f"{found['refused']}, {found['lost']}"),
            ("memory, first and last third",
             f"{found['memory_first_third_mb']:.0f}, {found['memory_last_third_mb']:.0f} MB"),
        ])  # fmt: skip
        if with_open:
            results["open"] = more = overload(service, folder, found["rate"], seconds, found["p50_ms"])
            table([
                ("open loop at four times that rate", f"{more['sent']} requests"),
                ("answers by status", json.dumps(more["answers"])),
                ("lost", str(more["lost"])),
                ("goodput", f"{more['goodput']:.0f} pairs/s, {more['goodput'] / found['rate']:.2f} of 16 clients"),
                ("cores that the clients took", f"{more['client_cores']:.2f}"),
                ("peak memory", f"{more['peak_memory_mb']:.0f} MB"),
                ("normal again after", f"{more['normal_again_after_s']:.1f} s"),
            ])  # fmt: skip
    finally:
        results["status at shutdown"] = service.stop()


if __name__ == "__main__":
    main()
