"""How much a compressed file may become, looked up before it is unpacked and in flat memory.

A few bytes can stand for all the memory of a machine. A file may unpack to 256 MiB, or to 50 times
its size where that is more, as tables and arrays of real data do; `MMBENCH_UNPACK_MIB` raises the
first of the two. Nothing is ever unpacked into files.
"""

import bz2
import gzip
import lzma
import os
import re
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SETTING = "MMBENCH_UNPACK_MIB"
LEAST_MIB = 256
RATIO = 50
CHUNK = 2**20  # bytes unpacked at a time, only to be counted
BATCH = 1024  # rows of a parquet file whose texts are counted at a time
COMPRESSED = 15  # kind of a variable of a MATLAB file
VALUE = 8  # bytes of a value of a parquet file, once it is read

OPEN: Mapping[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_BEGINS = {".gz": rb"\x1f\x8b", ".xz": rb"\xfd7zXZ\x00", ".bz2": rb"BZh[1-9]1AY&SY"}


class TooLargeError(ValueError):
    """A file becomes larger than it may."""


def require_size(path: Path, unpacked: int) -> None:
    """Refuse a file that becomes too large.

    Args:
        path: The compressed file.
        unpacked: Bytes that it becomes, or has become so far.

    Raises:
        TooLargeError: If it is too large.
        ValueError: If the setting is no number.
    """
    packed = path.stat().st_size
    if unpacked > max(_least(), RATIO * packed):
        raise TooLargeError(
            f"{path} is {packed:,} bytes and unpacks to {unpacked:,} or more, above "
            f"{_least() // 2**20} MiB and {RATIO} times its size; if it is meant, set the "
            f"environment variable {SETTING} to the MiB that a file may unpack to"
        )


def _least() -> int:
    said = os.environ.get(SETTING, str(LEAST_MIB))
    if not (said.isascii() and said.isdigit() and int(said) > 0):
        raise ValueError(f"{SETTING} must be a whole number of MiB, at least 1, found {said!r}")
    return int(said) * 2**20


def require_stream(path: Path) -> None:
    """Refuse a gzip, xz or bzip2 file that becomes too large; others pass.

    Raises:
        TooLargeError: If it does. What is damaged raises whatever its decoder does.
    """
    with path.open("rb") as file:
        begin = file.read(10)
    for ending, pattern in _BEGINS.items():
        if re.match(pattern, begin):
            unpacked = 0
            with OPEN[ending](path, "rb") as stream:
                while part := stream.read(CHUNK):
                    unpacked += len(part)
                    require_size(path, unpacked)


def require_matlab(path: Path) -> None:
    """Refuse a MATLAB file whose variables become too large; other versions than 5 do not shrink.

    Raises:
        TooLargeError: If they do. What is damaged raises whatever its decoder does.
    """
    with path.open("rb") as file:
        head = file.read(128)
        order = {b"IM": "<", b"MI": ">"}.get(head[126:128])
        if order is None:
            return
        unpacked = 0
        while len(tag := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}II", tag)
            if kind != COMPRESSED:
                file.seek(size, os.SEEK_CUR)
                continue
            stream, packed = zlib.decompressobj(), file.read(size)
            while part := stream.decompress(packed, CHUNK):
                unpacked += len(part)
                require_size(path, unpacked)
                packed = stream.unconsumed_tail


def require_parquet(path: Path) -> None:
    """Refuse a parquet file that becomes too large: runs and dictionaries repeat a value for free.

    Raises:
        TooLargeError: If it does. What is damaged raises whatever its decoder does.
    """
    from pyarrow import compute, parquet

    with parquet.ParquetFile(path) as file:
        meta, schema = file.metadata, file.schema_arrow
    parts = [
        meta.row_group(i).column(j)
        for i in range(meta.num_row_groups)
        for j in range(meta.num_columns)
    ]
    claims = (max(part.num_values * VALUE, part.total_uncompressed_size) for part in parts)
    require_size(path, sum(claims))
    texts = [field.name for field in schema if _is_text(field.type)]
    unpacked = 0
    with parquet.ParquetFile(path, read_dictionary=texts) as file:
        for batch in file.iter_batches(BATCH, columns=texts) if texts else ():
            for column in batch.columns:  # each a dictionary of texts, and which of them a row has
                sizes = compute.binary_length(column.dictionary).take(column.indices)
                unpacked += compute.sum(sizes).as_py() or 0
            require_size(path, unpacked)


def _is_text(kind: Any) -> bool:
    """Whether values of a parquet column differ in size and may be one value, repeated."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)
    return any(one(kind) for one in (*texts, pa.types.is_large_binary))
