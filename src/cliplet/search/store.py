"""The table of an index: one row a photo, kept by LanceDB in a folder or on object storage.

What LanceDB would do otherwise than one expects is settled here: keys are made distinct before they are merged, vectors
are finite and of length 1, the distance is always the dot product, and what a killed run has left is removed.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.encoders.card import ModelCard
from cliplet.errors import InputError, MissingExtraError

Vectors = NDArray[np.float32]
KEY = b"cliplet.index"
FORMAT = 1
KEPT = timedelta(hours=1)
"""How long older versions of the table stay, for those who read them."""


@dataclass(frozen=True)
class Maker:
    """The model that made an index."""

    model: str
    """Its name."""
    fingerprint: str
    """Of its weights and preprocessing."""
    dim: int
    """Length of its vectors."""
    format: int = FORMAT
    """Of the table."""

    @classmethod
    def of(cls, card: ModelCard) -> "Maker":
        """The maker that a card describes."""
        return cls(card.name, card.fingerprint, card.embedding_dim)


@dataclass(frozen=True)
class Row:
    """A photo."""

    path: str
    """Its absolute path; in a tar ``/folder/shard.tar:member``."""
    hash: str
    """BLAKE2b of its bytes, 32 hexadecimal digits; empty for one that was taken out before it was ever read."""
    size: int
    """In bytes."""
    modified: float
    """When its file was last changed, in seconds since 1970."""
    width: int
    """In pixels, as stored."""
    height: int
    """In pixels, as stored."""
    hidden: bool = False
    """Taken out: it is not found, and stays so."""


class Store:
    """The table at an address such as ``photos.lance`` or ``s3://bucket/photos.lance``."""

    def __init__(self, address: str | Path, options: dict[str, str] | None = None) -> None:
        """Say where it is; nothing is opened.

        Raises:
            InputError: the address does not end in ``.lance``.
            MissingExtraError: LanceDB is not installed.
        """
        self.address = str(address).rstrip("/")
        parent, _, name = self.address.replace("\\", "/").rpartition("/")
        if not name.endswith(".lance") or name == ".lance":
            raise InputError(f"{address}: an index's name ends in .lance, such as photos.lance")
        self.remote = "://" in self.address
        self._parent, self._name = (
            parent or ("/" if self.address.startswith("/") else "."),
            name[: -len(".lance")],
        )
        self._options = options
        self._table: Any = None

    # ---------------------------------------------------------------- opening
    def _connect(self) -> Any:
        try:
            import lancedb
        except ImportError as error:
            raise MissingExtraError("an index of photos", "search") from error
        if not self.remote:
            Path(self._parent).mkdir(parents=True, exist_ok=True)
        return lancedb.connect(
            self._parent, read_consistency_interval=timedelta(0), storage_options=self._options
        )

    def exists(self) -> bool:
        """Whether the table is there."""
        return self._name in _table_names(self._connect())

    def open(self) -> Maker:
        """Open the table and say who made it.

        Raises:
            InputError: it is not there, or is no index of cliplet's.
        """
        if not self.remote and not Path(self.address).is_dir():
            raise InputError(
                f"{self.address}: there is no such index; make it with cliplet index PHOTOS --out"
            )
        database = self._connect()
        try:
            self._table = database.open_table(self._name)
            about = (self._table.schema.metadata or {}).get(KEY)
            maker = Maker(**json.loads(about)) if about else None
        except (ValueError, TypeError, OSError, RuntimeError) as error:
            raise InputError(f"{self.address} cannot be opened as an index: {_short(error)}") from error
        if maker is None or maker.format != FORMAT:
            raise InputError(f"{self.address} is not an index that this version of cliplet made")
        return maker

    def create(self, maker: Maker) -> None:
        """Make an empty table, in the place of one that may be there."""
        mode = "overwrite" if self.exists() else "create"
        self._table = self._connect().create_table(self._name, schema=_schema(maker), mode=mode)

    # ---------------------------------------------------------------- writing
    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs from writing, and remove what killed ones have left; no lock on object storage.

        Raises:
            InputError: another run writes it now.
        """
        if self.remote:
            yield
            return
        from filelock import FileLock, Timeout

        Path(self._parent).mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{self.address}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"{self.address} is being written by another run; wait for it, or stop it"
            ) from None
        try:
            self._sweep()
            yield
        finally:
            lock.release()

    def _sweep(self) -> None:
        """Remove the temporary files of a killed run, which LanceDB never does; the lock is ours."""
        for left in Path(self.address).glob("**/.tmp*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)

    def put(self, rows: Sequence[Row], vectors: Vectors) -> None:
        """Add or replace rows, in one version of the table.

        Args:
            rows: of different paths.
            vectors: unit rows ``[n, d]``; zero for hidden ones.
        """
        if not rows:
            return
        if len({row.path for row in rows}) != len(rows):
            raise ValueError("a path stands twice")
        norms = np.linalg.norm(vectors, axis=1)
        if not (
            np.isfinite(vectors).all() and ((abs(norms - 1) < 1e-2) | [row.hidden for row in rows]).all()
        ):
            raise ValueError("vectors must be finite and of length 1")
        table = _arrow(rows, vectors, self._table.schema)
        merge = self._table.merge_insert("path").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(table)

    def delete(self, paths: Sequence[str]) -> None:
        """Remove rows."""
        for start in range(0, len(paths), 1000):
            listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths[start : start + 1000])
            self._table.delete(f"path IN ({listed})")

    def tidy(self) -> None:
        """Join small files, and drop versions older than an hour."""
        self._table.optimize(cleanup_older_than=KEPT)

    # ---------------------------------------------------------------- reading
    @property
    def version(self) -> int:
        """Grows with every change, those of other processes too."""
        return int(self._table.version)

    def __len__(self) -> int:
        return int(self._table.count_rows("NOT hidden"))

    def rows(self) -> dict[str, Row]:
        """Every row by its path, hidden ones too, without the vectors."""
        names = list(Row.__dataclass_fields__)
        found = self._table.search().select(names).to_arrow().to_pylist()
        return {row["path"]: Row(**{name: row[name] for name in names}) for row in found}

    def vectors(self) -> tuple[int, list[str], list[str], Vectors]:
        """(version, paths, hashes, float32 ``[n, d]``) of all that are not hidden, in the order of their paths."""
        version = self.version
        found = self._table.search().where("NOT hidden").select(["path", "hash", "vector"]).to_arrow()
        found = found.sort_by("path").combine_chunks()
        vectors = found.column("vector").combine_chunks()
        flat = np.asarray(vectors.flatten().to_numpy(zero_copy_only=False), dtype=np.float32)
        matrix = flat.reshape(len(found), -1) if len(found) else np.zeros((0, 1), dtype=np.float32)
        return version, found.column("path").to_pylist(), found.column("hash").to_pylist(), matrix

    def vectors_of(self, hashes: Sequence[str]) -> dict[str, Vectors]:
        """The vectors of contents that the table has already, by hash."""
        found: dict[str, Vectors] = {}
        for start in range(0, len(hashes), 1000):
            listed = ", ".join(f"'{h}'" for h in hashes[start : start + 1000])
            query = (
                self._table.search().where(f"NOT hidden AND hash IN ({listed})").select(["hash", "vector"])
            )
            for row in query.to_arrow().to_pylist():
                found[row["hash"]] = np.array(row["vector"], dtype=np.float32)
        return found

    # ---------------------------------------------------------------- approximate neighbours
    def make_ann(self) -> None:
        """Index the vectors for approximate search (IVF, vectors kept whole), by the dot product."""
        from lancedb.index import IvfFlat

        partitions = max(1, round(len(self) ** 0.5 / 2))
        self._table.create_index(
            "vector", config=IvfFlat(distance_type="dot", num_partitions=partitions), replace=True
        )

    def has_ann(self) -> bool:
        """Whether there is such an index."""
        return bool(self._table.list_indices())

    def ann(self, query: Vectors, top: int) -> list[tuple[str, str, float]]:
        """(path, hash, dot product) of about the ``top`` nearest."""
        asked = self._table.search(query).distance_type("dot").nprobes(64).where("NOT hidden", prefilter=True)
        found = asked.select(["path", "hash", "_distance"]).limit(top).to_arrow().to_pylist()
        return [(row["path"], row["hash"], 1 - row["_distance"]) for row in found]


def _table_names(database: Any) -> list[str]:
    listed = database.list_tables() if hasattr(database, "list_tables") else database.table_names()
    return list(getattr(listed, "tables", listed))


def _schema(maker: Maker) -> Any:
    import pyarrow as pa

    fields = [
        pa.field("path", pa.string(), nullable=False),
        pa.field("hash", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("modified", pa.float64()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("hidden", pa.bool_(), nullable=False),
        pa.field("vector", pa.list_(pa.float32(), maker.dim), nullable=False),
    ]
    return pa.schema(fields, metadata={KEY: json.dumps(asdict(maker))})


def _arrow(rows: Sequence[Row], vectors: Vectors, schema: Any) -> Any:
    import pyarrow as pa

    columns = [
        pa.array([getattr(row, name) for row in rows], schema.field(name).type) for name in schema.names[:-1]
    ]
    values = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    columns.append(pa.FixedSizeListArray.from_arrays(values, vectors.shape[1]))
    return pa.Table.from_arrays(columns, schema=schema)


def _short(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
