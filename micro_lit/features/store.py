"""The feature store: representations of texts on disk, written once, memory-mapped by everyone.

A store is a folder named by the fingerprint of everything that shapes a representation but the text: backbone,
revision, tokenizer, template, pooling, length, dtype. In it: safetensors shards of representations with the digest of
each text, and a manifest that names them. A shard counts only once the manifest names it, and both appear by atomic
rename, so whatever is read was completely written.

Dimension letters: M texts, D representation width, B rows asked for.
"""

import hashlib
import json
import math
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from micro_lit.data.pairs import Text
from micro_lit.errors import UserError

SHARD_BYTES = 256 * 2**20
CHUNK_BYTES = 64 * 2**20
FORMAT = 1

# Touching one row maps the pages around it too, up to a huge page, and they count as this process's memory.
FAULT_BYTES = 2 * 2**20


def text_digests(texts: Sequence[Text]) -> NDArray[np.uint64]:
    """A 128-bit digest of each text's content, as two numbers: [M, 2]."""
    raw = b"".join(hashlib.blake2b(repr(text).encode(), digest_size=16).digest() for text in texts)
    return np.frombuffer(raw, dtype="<u8").reshape(-1, 2)


class FeatureStore:
    """The store of one encoder under `root`. `spec` holds everything its fingerprint is made of, as JSON types.

    Raises `UserError` when the folder's manifest was written for another spec or by another version of the format, or
    when a shard is missing or not as long as it was written.
    """

    def __init__(self, root: Path, spec: Mapping[str, Any]) -> None:
        self.spec = json.loads(json.dumps(spec))
        canonical = json.dumps({"format": FORMAT, **self.spec}, sort_keys=True)
        self.fingerprint = hashlib.sha256(canonical.encode()).hexdigest()[:16]
        self.folder = root / self.fingerprint
        self.manifest_path = self.folder / "manifest.json"

    def lock(self) -> FileLock:
        """Held by the one process that encodes; the others wait and then find the work done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / ".lock")

    def shards(self) -> dict[str, dict[str, int]]:
        """Name -> {rows, bytes} of every shard that may be read, checked against the files."""
        if not self.manifest_path.exists():
            return {}
        try:
            manifest = json.loads(self.manifest_path.read_text())
        except json.JSONDecodeError as error:
            raise UserError(f"{self.manifest_path}: broken ({error}); delete {self.folder} to encode again") from error
        if manifest.get("format") != FORMAT or manifest.get("spec") != self.spec:
            raise UserError(f"{self.folder}: written for another encoder or version; delete it to encode again")
        for name, facts in manifest["shards"].items():
            path = self.folder / name
            if not path.exists() or path.stat().st_size != facts["bytes"]:
                raise UserError(f"{path}: missing or cut short; delete {self.folder} to encode again")
        return manifest["shards"]

    def add(self, texts: Sequence[Text], features_MD: Float[Tensor, "M D"], truncated_M: Tensor) -> None:
        """Writes one shard and names it in the manifest. The caller holds the lock."""
        digests = torch.from_numpy(text_digests(texts).view(np.int64).copy())
        name = f"shard-{hashlib.sha256(digests.numpy().tobytes()).hexdigest()[:16]}.safetensors"
        path = self.folder / name
        partial = path.with_suffix(".partial")
        tensors = {"features": features_MD.contiguous(), "digests": digests, "truncated": truncated_M}
        save_file(tensors, partial)
        _publish(partial, path)
        shards = {**self.shards(), name: {"rows": len(features_MD), "bytes": path.stat().st_size}}
        manifest = json.dumps({"format": FORMAT, "spec": self.spec, "shards": shards}, indent=1)
        partial = self.manifest_path.with_suffix(".partial")
        partial.write_text(manifest)
        _publish(partial, self.manifest_path)

    def find(self, digests_M2: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Where each text lies, as (shard, row): [M, 2]; (-1, -1) for a text that is not stored."""
        order = np.argsort(digests_M2[:, 0], kind="stable")
        wanted = digests_M2[order]
        place_M2 = np.full((len(wanted), 2), -1, dtype=np.int64)
        for number, name in enumerate(self.shards()):
            stored = _map_tensors(self.folder / name)["digests"].numpy().view(np.uint64)
            row_order = np.argsort(stored[:, 0], kind="stable")
            at = np.searchsorted(stored[row_order, 0], wanted[:, 0])
            row_M = row_order[at.clip(max=len(stored) - 1)]
            found_M = (stored[row_M] == wanted).all(axis=1)
            place_M2[order[found_M]] = np.stack([np.full(found_M.sum(), number), row_M[found_M]], axis=1)
        return place_M2

    def table(self, digests_M2: NDArray[np.uint64]) -> "MappedTable":
        """The representations of texts that are all stored."""
        place_M2 = self.find(digests_M2)
        assert (place_M2 >= 0).all(), "texts are encoded before a table is asked for"
        tensors = [_map_tensors(self.folder / name) for name in self.shards()]
        truncated = [shard["truncated"] for shard in tensors]
        return MappedTable(
            self.folder,
            [shard["features"] for shard in tensors],
            torch.from_numpy(place_M2),
            _look_up(truncated, place_M2),
        )


class MappedTable:
    """M representations inside mapped shards; gathering reads only the rows asked for.

    place_M2: shard and row of each text. truncated_M: whether a text was cut to fit.
    resident_bytes: how much of the mapping may be in the process's resident set at once. Pages given back stay in the
    page cache, so touching them again costs no disk.
    """

    def __init__(
        self,
        folder: Path,
        shards: Sequence[Tensor],
        place_M2: Int64[Tensor, "M 2"],
        truncated_M: Bool[Tensor, " M"],
        resident_bytes: int = 2**29,
    ) -> None:
        self.folder = folder
        self.shards = list(shards)
        self.place_M2 = place_M2
        self.truncated_M = truncated_M
        self.resident_bytes = resident_bytes

    def __len__(self) -> int:
        return len(self.place_M2)

    @property
    def width(self) -> int:
        return self.shards[0].shape[1]

    def chunks(self) -> Iterator[Int64[Tensor, " B"]]:
        """All rows in order, in pieces of a few dozen megabytes."""
        return iter(torch.arange(len(self)).split(max(1, CHUNK_BYTES // (4 * self.width))))

    def resident(self) -> Float[Tensor, "M D"]:
        """All rows in memory, read piece by piece so that nothing but the result is held."""
        out_MD = torch.empty(len(self), self.width)
        for rows_B in self.chunks():
            out_MD[rows_B] = self.gather(rows_B)
        return out_MD

    @property
    def nbytes(self) -> int:
        """Size of the whole table in float32."""
        return 4 * len(self) * self.width

    def gather(self, rows_B: Int64[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """Copies some rows, in float32, on the CPU."""
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
            features.mapping.madvise(mmap.MADV_DONTNEED)


def _look_up(shards: Sequence[Tensor], place_M2: NDArray[np.int64]) -> Tensor:
    """One value per text from a small column of each shard."""
    starts = np.cumsum([0, *map(len, shards[:-1])])
    return torch.cat(list(shards))[torch.from_numpy(starts[place_M2[:, 0]] + place_M2[:, 1])]


def _map_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file as views of its mapping, which `tensor.mapping` names for release.

    The library's own reader maps too, but neither gathers rows nor gives pages back.
    """
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    start = 8 + int.from_bytes(mapping[:8], "little")
    tensors = {}
    for name, facts in json.loads(mapping[8:start]).items():
        if name == "__metadata__":
            continue
        dtype = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "I64": torch.int64,
                 "BOOL": torch.bool}[facts["dtype"]]  # fmt: skip
        tensor = torch.frombuffer(
            mapping, dtype=dtype, count=math.prod(facts["shape"]), offset=start + facts["data_offsets"][0]
        ).reshape(facts["shape"])
        tensor.mapping = mapping
        tensors[name] = tensor
    return tensors


def _publish(partial: Path, path: Path) -> None:
    """Gives a written file its name, once its bytes are on the disk: it is there whole or not at all."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
