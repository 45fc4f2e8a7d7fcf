"""The feature store: a cache of text representations on disk, written once and memory-mapped by readers.

A store is a folder named by the fingerprint of everything that determines a representation except the text: backbone,
revision, tokenizer, template, pooling, length, dtype. It contains safetensors shards with text digests, and a manifest
with their checksums. Both are written by atomic rename, and a shard is verified by its checksum before it is used.

Any number of processes may share a store. Texts are divided into `PARTS` parts, and the process that encodes texts of a
part holds the lock of that part, which the kernel releases when the process exits. A second lock is held while files
are written. Reading needs no lock and writes nothing.

Dimension letters: M texts, U distinct texts, R rows of a shard, D representation width, B requested rows.
"""

import ctypes
import errno
import functools
import hashlib
import json
import mmap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from filelock import FileLock, Timeout
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from micro_lit.data.texts import Text, text_digests
from micro_lit.errors import UserError
from micro_lit.host.files import write_text, write_whole

# A shard is written at this size or after this time, so that an interrupted run loses little work.
SHARD_BYTES = 256 * 2**20
SHARD_SECONDS = 120.0
STORE_CHUNK_BYTES = 64 * 2**20
STORE_FORMAT = 2
PARTS = 64
POLL_SECONDS = 0.2

# Reading one row also maps the pages around it, up to a huge page, and these count as memory of the process.
FAULT_BYTES = 2 * 2**20

libc = ctypes.CDLL(None)


class FeatureStore:
    """The feature store of one encoder.

    A damaged or missing shard is reported once, and its texts count as missing. While the manifest is damaged, all
    texts do; the next process that encodes rebuilds it from the shards, whose file names contain their checksums.
    Methods raise `UserError` when the manifest has another spec or format, or a file cannot be read or written.

    Args:
        root: parent folder of all stores.
        spec: everything the fingerprint depends on, as JSON types.
        recut: encode truncated texts of older shards (without token digests) again: the truncation rule has changed.
    """

    def __init__(self, root: Path, spec: Mapping[str, Any], recut: bool = False) -> None:
        self.recut = recut
        self.spec = json.loads(json.dumps(spec))
        # 1 and not FORMAT, so that folders of format 1, which had no checksums, remain in use.
        canonical = json.dumps({"format": 1, **self.spec}, sort_keys=True)
        self.fingerprint = hashlib.sha256(canonical.encode()).hexdigest()[:16]
        self.folder = root / self.fingerprint
        self.manifest_path = self.folder / "manifest.json"
        self._ignored: set[str] = set()
        self._unstored = 0
        self._waited = False

    def shards(self) -> dict[str, dict[str, Any]]:
        """Shards in the manifest: name -> {rows, bytes, checksum}."""
        try:
            manifest = json.loads(self.manifest_path.read_bytes())
            checksum = manifest.pop("checksum", None)
            expected = None if manifest.get("format") == 1 else _manifest_checksum(manifest)
            broken = checksum != expected or "spec" not in manifest or not isinstance(manifest.get("shards"), dict)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise UserError(f"{self.manifest_path}: cannot be read ({error.strerror})") from error
        except (ValueError, TypeError, AttributeError):
            broken = True
        if broken:
            self._ignore(self.manifest_path.name, "broken; it is rebuilt from the shards")
            return {}
        if manifest["format"] not in (1, STORE_FORMAT) or manifest["spec"] != self.spec:
            raise UserError(f"{self.folder}: written for another encoder or version; delete it to encode again")
        return manifest["shards"]

    def table(self, digests_M2: NDArray[np.uint64]) -> "MappedTable | None":
        """The representations of the texts with these digests (`text_digests`), or None if any is not stored."""
        names, place_M2 = self.find(digests_M2)
        if (place_M2 < 0).any():
            return None
        tensors = [_map_tensors(self.folder / name) for name in names]
        for shard in tensors:  # shards of earlier versions lack both columns
            shard.setdefault("cut", torch.zeros(len(shard["digests"]), 2, dtype=torch.bool))
            shard.setdefault("tokens", torch.zeros(len(shard["digests"]), dtype=torch.int64))
        columns = ([shard[name] for shard in tensors] for name in ("truncated", "cut", "tokens"))
        return MappedTable(
            self.folder,
            [shard["features"] for shard in tensors],
            torch.from_numpy(place_M2),
            *(_find_rows(column, place_M2) for column in columns),
        )

    def find(self, digests_M2: NDArray[np.uint64]) -> tuple[list[str], NDArray[np.int64]]:
        """Names of the shards with any of the texts, and (index of shard, row) of each text, (-1, -1) if missing."""
        _, first_U, inverse_M = np.unique(digests_M2[:, 0], return_index=True, return_inverse=True)
        wanted_U2 = digests_M2[first_U]
        place_U2 = np.full((len(wanted_U2), 2), -1, dtype=np.int64)
        names = []
        for name, facts in self.shards().items():
            try:
                stored_R2 = _row_digests(self.folder / name, facts)
                at_R = np.searchsorted(wanted_U2[:, 0], stored_R2[:, 0]).clip(max=len(wanted_U2) - 1)
                row_B = np.flatnonzero((wanted_U2[at_R] == stored_R2).all(axis=1))
                if not len(row_B):
                    continue
                if facts.get("checksum", checksum := _checksum(self.folder / name)) != checksum:
                    raise ValueError("damaged")
                if self.recut:
                    row_B = row_B[~_cut_by_old_rule(self.folder / name)[row_B]]
            except PermissionError as error:
                raise UserError(f"{self.folder / name}: cannot be read ({error.strerror})") from error
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                self._ignore(name, f"{reason}; its {facts['rows']:,} texts are to be encoded again")
                continue
            place_U2[at_R[row_B], 0], place_U2[at_R[row_B], 1] = len(names), row_B
            names.append(name)
        return names, place_U2[inverse_M]

    @contextmanager
    def claim(
        self, digests_M2: NDArray[np.uint64], part_M: NDArray[np.integer], rank: int = 0, world_size: int = 1
    ) -> Iterator[NDArray[np.int64]]:
        """Locks parts, and yields the indices of their missing texts for this process alone to encode.

        Blocks while other processes hold the locks of all parts with missing texts. Afterwards the array is usually
        empty, unless one of these processes exited early.

        Args:
            part_M: part of each text, from 0 to `PARTS` - 1, the same in all processes.
            rank, world_size: of this process in its run; each rank takes its own parts first.
        """
        missing_M = self.find(digests_M2)[1][:, 0] < 0
        parts = np.unique(part_M[missing_M])
        own = parts % world_size == rank
        taken = []
        with ExitStack() as held:
            with self._writing():
                (self.folder / "locks").mkdir(parents=True, exist_ok=True)
                while len(parts) and not (taken := self._take(parts[own], held) or self._take(parts[~own], held)):
                    if rank == 0 and not self._waited:
                        waiting = f"waiting for another process to encode {missing_M.sum():,} texts ({self.folder})"
                        print(waiting, flush=True)
                    self._waited = True
                    time.sleep(POLL_SECONDS)
                self._tidy()
            missing_M = self.find(digests_M2)[1][:, 0] < 0
            rows = np.flatnonzero(missing_M & np.isin(part_M, taken))
            self._unstored = len(rows)
            yield rows

    def add(
        self,
        texts: Sequence[Text],
        features_MD: Float[Tensor, "M D"],
        truncated_M: Bool[Tensor, " M"],
        reading: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Writes one shard of claimed texts; `reading` has `cut` [M, 2] and `tokens` [M], as in `MappedTable`."""
        digests = torch.from_numpy(text_digests(texts).view(np.int64).copy())
        columns = {"features": features_MD.contiguous(), "digests": digests, "truncated": truncated_M}
        data = save(columns | {name: column.contiguous() for name, column in (reading or {}).items()})
        facts = {"rows": len(texts), "bytes": len(data), "checksum": xxhash.xxh3_128_hexdigest(data)}
        name = _shard_name(facts["checksum"])
        with self._writing(len(data) * max(self._unstored, len(texts)) // len(texts)), self._lock():
            write_whole(self.folder / name, lambda partial: partial.write_bytes(data))
            self._write_manifest({**self.shards(), name: facts})
        self._unstored -= len(texts)

    def _take(self, parts: NDArray[np.integer], held: ExitStack) -> list[int]:
        """Acquires all free locks among these parts, and returns the parts locked."""
        taken = []
        for part in parts.tolist():
            try:
                held.enter_context(FileLock(self.folder / "locks" / f"{part:02}").acquire(blocking=False))
            except Timeout:
                continue
            taken.append(part)
        return taken

    def _tidy(self) -> None:
        """Makes folder and manifest consistent again after crashes, disk errors or deleted files.

        Under the lock no write is in progress. A shard outside the manifest is added if its checksum fits, or deleted.
        """
        with self._lock():
            for partial in self.folder.glob("*.partial"):
                partial.unlink()
            named = self.shards()
            shards = {
                name: {**facts, "checksum": facts.get("checksum") or _checksum(self.folder / name)}
                for name, facts in named.items()
                if name not in self._ignored
            }
            for path in self.folder.glob("shard-*.safetensors"):
                if path.name in shards:
                    continue
                checksum = _checksum(path) if path.exists() else ""  # a dangling symlink
                if path.name == _shard_name(checksum):
                    rows = len(_map_tensors(path)["digests"])
                    shards[path.name] = {"rows": rows, "bytes": path.stat().st_size, "checksum": checksum}
                else:
                    path.unlink()
            if shards != named:
                self._write_manifest(shards)
            self._ignored.clear()

    def _write_manifest(self, shards: Mapping[str, Mapping[str, Any]]) -> None:
        manifest = {"format": STORE_FORMAT, "spec": self.spec, "shards": shards}
        write_text(self.manifest_path, json.dumps({**manifest, "checksum": _manifest_checksum(manifest)}, indent=1))

    def _ignore(self, name: str, reason: str) -> None:
        """Prints once why a file is not used; it is ignored until `_tidy` has run."""
        if name not in self._ignored:
            print(f"{self.folder / name}: {reason}")
        self._ignored.add(name)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """The lock for writing files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            yield

    @contextmanager
    def _writing(self, needed: int = 0) -> Iterator[None]:
        """Converts write errors to a `UserError` of one line. needed: bytes still to be stored, with this file."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                room = f"; what is still to be stored takes {needed / 1e6:,.1f} MB" if needed else ""
                raise UserError(
                    f"{self.folder}: the disk is full{room}. Finished shards are kept: make room and run the same "
                    "command again, or set another paths.features_dir"
                ) from error
            raise UserError(
                f"{self.folder}: some texts are not stored there yet, and it cannot be written ({error.strerror}); set "
                "another paths.features_dir"
            ) from error


class MappedTable:
    """M representations in memory-mapped shards; `gather` reads only the requested rows.

    Args:
        folder: of the store.
        shards: features of each shard, [R, D].
        place_M2: index of the shard, and row in it, of each text.
        truncated_M, cut_M2: whether the text, and its prompt and its response, was truncated.
        tokens_M: digest of its tokens. In older shards, which lack both, it is 0 and `cut_M2` is False.
        resident_bytes: most mapped memory in the resident set; pages released from it stay in the page cache.
    """

    def __init__(
        self,
        folder: Path,
        shards: Sequence[Tensor],
        place_M2: Int64[Tensor, "M 2"],
        truncated_M: Bool[Tensor, " M"],
        cut_M2: Bool[Tensor, "M 2"],
        tokens_M: Int64[Tensor, " M"],
        resident_bytes: int = 2**29,
    ) -> None:
        self.folder = folder
        self.shards = list(shards)
        self.place_M2 = place_M2
        self.truncated_M = truncated_M
        self.cut_M2, self.tokens_M = cut_M2, tokens_M
        self.resident_bytes = resident_bytes

    def __len__(self) -> int:
        return len(self.place_M2)

    @property
    def width(self) -> int:
        return self.shards[0].shape[1]

    def chunks(self) -> Iterator[Int64[Tensor, " B"]]:
        """Indices of all rows in order, in chunks of at most `STORE_CHUNK_BYTES` of features."""
        return iter(torch.arange(len(self)).split(max(1, STORE_CHUNK_BYTES // (4 * self.width))))

    def resident(self) -> Float[Tensor, "M D"]:
        """The whole table in memory, in float32, read in chunks so that only the result is held."""
        out_MD = torch.empty(len(self), self.width)
        for rows_B in self.chunks():
            out_MD[rows_B] = self.gather(rows_B)
        return out_MD

    @property
    def nbytes(self) -> int:
        """Size of the whole table in float32."""
        return 4 * len(self) * self.width

    def gather(self, rows_B: Int64[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """Copies rows to a float32 tensor on the CPU."""
        place_B2 = self.place_M2[rows_B.cpu()]
        out_BD = torch.empty(len(place_B2), self.width)
        step = max(1, self.resident_bytes // FAULT_BYTES)
        for start in range(0, len(place_B2), step):
            shard_R, row_R = place_B2[start : start + step].unbind(dim=1)
            out_RD = out_BD[start : start + step]
            for number in shard_R.unique().tolist():
                here_R = shard_R == number
                out_RD[here_R] = self.shards[number][row_R[here_R]].float()
            self._release()
        return out_BD

    def _release(self) -> None:
        for features in self.shards:
            mapping = features.untyped_storage()
            libc.madvise(ctypes.c_void_p(mapping.data_ptr()), ctypes.c_size_t(mapping.nbytes()), mmap.MADV_DONTNEED)


def _find_rows(shards: Sequence[Tensor], place_M2: NDArray[np.int64]) -> Tensor:
    """One value per text from a small column of each shard."""
    starts = np.cumsum([0, *map(len, shards[:-1])])
    return torch.cat(list(shards))[torch.from_numpy(starts[place_M2[:, 0]] + place_M2[:, 1])]


def _map_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file as views of one memory mapping, without an open file.

    The safetensors library maps files too, but can neither gather rows nor release pages.
    """
    with path.open("rb"):  # raises OSError for unreadable files, which torch would turn into other errors
        raw = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    start = 8 + int.from_bytes(raw.numpy()[:8].tobytes(), "little")
    tensors = {}
    for name, facts in json.loads(raw.numpy()[8:start].tobytes()).items():
        if name == "__metadata__":
            continue
        dtype = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "I64": torch.int64,
                 "BOOL": torch.bool}[facts["dtype"]]  # fmt: skip
        first, last = facts["data_offsets"]
        tensors[name] = raw[start + first : start + last].view(dtype).reshape(facts["shape"])
    return tensors


def _row_digests(path: Path, facts: Mapping[str, Any]) -> NDArray[np.uint64]:
    """Text digests of a shard [R, 2]. Raises `ValueError` when the shard has the wrong size or is damaged."""
    if path.stat().st_size != facts["bytes"]:
        raise ValueError("its size has changed")
    try:
        digests = _map_tensors(path)["digests"].numpy().view(np.uint64)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError("damaged") from error
    if digests.shape != (facts["rows"], 2):
        raise ValueError("damaged")
    return digests


def _cut_by_old_rule(path: Path) -> NDArray[np.bool_]:
    """Texts that were truncated by the old rule: truncated ones in shards without token digests."""
    tensors = _map_tensors(path)
    truncated_R = tensors["truncated"].numpy()
    return np.zeros_like(truncated_R) if "tokens" in tensors else truncated_R


def _checksum(path: Path) -> str:
    """Checksum of a file, cached in the process until the file changes (inode, size, modification time)."""
    facts = path.stat()
    return _checksum_once(path, facts.st_ino, facts.st_size, facts.st_mtime_ns)


@functools.cache
def _checksum_once(path: Path, *facts: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def _manifest_checksum(manifest: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(manifest, sort_keys=True).encode())


def _shard_name(checksum: str) -> str:
    return f"shard-{checksum}.safetensors"
