"""The seal of a finished build: checksums in its manifest, which tell when it is opened whether a file is damaged.

A file that was not written since is compared in its size and in samples, any other in full. So opening reads
little of a large index: what opening and closing it write are its small files.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from zlib import crc32

from pydantic import TypeAdapter

from ctd_agent.errors import UserError

MANIFEST = "manifest.json"  # in a build's folder once it is finished
BLOCK = 2**18  # bytes
SAMPLES = 8  # blocks of a large file, and its last
EMPTY = bytes(BLOCK)

Sums = tuple[int, int, int, int]  # of a file: its size, when it was written, the checksum of samples and of all of it
_FILES = TypeAdapter(dict[str, Sums])


class DamagedError(UserError):
    """An index's files are not what was written."""


def sealed(build: Path, manifest: str) -> str:
    """Return a build's manifest with checksums of its files and of itself."""
    paths = [path for path in sorted((build / "shard").rglob("*")) if path.is_file()]
    files = {path.relative_to(build).as_posix(): _sums(path) for path in paths}
    fields = {**json.loads(manifest), "files": files}
    return json.dumps({**fields, "checksum": _of_text(fields)})


def unsealed(build: Path) -> str:
    """Return a build's manifest as it was before it was sealed. One of version 0.1 never was.

    Raises DamagedError for a file that is not as it was sealed, OSError where one cannot be read.
    """
    try:
        fields = dict(json.loads((build / MANIFEST).read_bytes()))
        if not {"files", "checksum"} & fields.keys():
            return json.dumps(fields)
        checksum = fields.pop("checksum")
        whole = checksum == _of_text(fields)
        files = _FILES.validate_python(fields.pop("files"))
    except (ValueError, TypeError, KeyError) as error:  # no JSON, or another's
        raise _damaged(build, MANIFEST) from error
    if not whole:
        raise _damaged(build, MANIFEST)
    for name, sums in files.items():
        if not _is_whole(build / name, sums):
            raise _damaged(build, name)
    return json.dumps(fields)


def _damaged(build: Path, name: str) -> DamagedError:
    where = build.parent
    return DamagedError(
        f"{where}: the index is damaged, {build.name}/{name} is not what was written; "
        f"build it again with `ctd-agent index CATALOGUE --out {where}`"
    )


def _of_text(fields: dict[str, object]) -> int:
    return crc32(json.dumps(fields).encode())


def _sums(path: Path) -> Sums:
    there = path.stat()
    return there.st_size, there.st_mtime_ns, _checksum(path, _some(there.st_size)), _checksum(path, _all(there.st_size))


def _is_whole(path: Path, sums: Sums) -> bool:
    size, written, samples, whole = sums
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    if there.st_size != size:
        return False
    if there.st_mtime_ns == written:
        return _checksum(path, _some(size)) == samples
    return _checksum(path, _all(size)) == whole


def _all(size: int) -> range:
    return range(0, size, BLOCK)


def _some(size: int) -> list[int]:
    blocks = _all(size)
    return [*blocks[:: len(blocks) // SAMPLES + 1], *blocks[-1:]]


def _checksum(path: Path, offsets: Iterable[int]) -> int:
    """Return the checksum of a file's blocks. Those of zeros alone do not count: a new file is nearly all of these."""
    checksum = 0
    with path.open("rb", buffering=0) as file:
        for offset in offsets:
            file.seek(offset)
            block = file.read(BLOCK)
            if block != EMPTY:
                checksum = crc32(block, crc32(offset.to_bytes(8, "big"), checksum))
    return checksum
