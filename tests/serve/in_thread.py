"""An application on a free port, in a thread of the test's process, and an index of a few photos."""

import asyncio
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

COLOURS = ("red", "green", "blue", "white", "black", "orange")


@dataclass
class Hit:
    path: str
    score: float
    also: list[str]


class Shelf:
    """An index of a few photos, the first the best."""

    def __init__(self, folder: Path) -> None:
        self.paths = []
        for i, colour in enumerate(COLOURS):
            path = folder / f"a photo with a long name of the colour {colour} {i}.jpg"
            exif = Image.Exif()
            exif[0x010E] = "a private remark"
            Image.new("RGB", (600, 400), colour).save(path, exif=exif)
            self.paths.append(str(path))

    def search_vector(self, vector: Any, top: int, without: Any = None) -> list[Hit]:
        assert np.linalg.norm(vector) == np.float32(1) or abs(np.linalg.norm(vector) - 1) < 1e-5
        hits = [Hit(path, 0.9 - 0.1 * i, ["copy.jpg"] if i == 1 else []) for i, path in enumerate(self.paths)]
        return (hits[1:] if without is not None else hits)[:top]


class Served:
    """An application that runs until :meth:`stop`."""

    def __init__(self, app: Any) -> None:
        self.server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on", ws="none"))
        self.thread = threading.Thread(target=lambda: asyncio.run(self.server.serve()))
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
        self.url = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}/"

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()
