"""Published files are fetched once, resumed, verified, and a failure says what to download by hand. No network."""

import hashlib
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from huggingface_hub import errors as hub_errors

import regard.models
from regard.checkpoint import download, fetch, load_state
from regard.errors import CheckpointError, MissingDependencyError

CONTENT = bytes(range(256)) * 400  # 100 kB
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT under any name; how well is up to the test."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.takes_ranges = True
        self.breaks_off_after = None
        self.asked = []  # the Range header of each request, or None

    def url(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        asked = self.headers["Range"]
        self.server.asked.append(asked)
        if "missing" in self.path:
            self.send_error(404)
            return
        begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.takes_ranges else 0
        if begin >= len(self.server.content):
            self.send_error(416)
            return
        rest = self.server.content[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.server.breaks_off_after])


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    hub = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
    torch.hub.set_dir(hub)


def get(url):
    return fetch(url, progress=False)


def files(folder):
    return [path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_fetched_once(server, tmp_path):
    path = get(server.url("net.pth"))
    assert path.name == "net.pth" and path.is_relative_to(tmp_path) and path.read_bytes() == CONTENT
    assert get(server.url("net.pth")) == path
    assert server.asked == [None] and files(tmp_path) == ["net.pth"]


def test_progress_is_shown_on_request(server, capsys):
    fetch(server.url("net.pth"), progress=True)
    assert capsys.readouterr().out.strip() == ""  # no terminal: a transient bar leaves nothing


def test_files_of_one_name_do_not_meet(server):
    first, second = get(server.url("a/net.pth")), get(server.url("b/net.pth"))
    assert first != second and first.name == second.name


def test_queries_are_no_part_of_the_name(server):
    assert get(server.url("net.pth?download=true")).name == "net.pth"


def test_resumed_where_it_broke_off(server, tmp_path):
    server.breaks_off_after = 30_000
    with pytest.raises(CheckpointError, match=r"net\.pth broke off after 30000 of 102400 bytes; call again"):
        get(server.url("net.pth"))
    assert files(tmp_path) == ["net.pth.partial"]
    with pytest.raises(CheckpointError, match="broke off after 60000 of 102400 bytes"):
        get(server.url("net.pth"))
    server.breaks_off_after = None
    assert get(server.url("net.pth")).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=30000-", "bytes=60000-"] and files(tmp_path) == ["net.pth"]


def test_begun_anew_where_the_server_takes_no_ranges(server, tmp_path):
    server.breaks_off_after = 30_000
    with pytest.raises(CheckpointError, match="broke off"):
        get(server.url("net.pth"))
    server.takes_ranges, server.breaks_off_after = False, None
    assert get(server.url("net.pth")).read_bytes() == CONTENT
    assert files(tmp_path) == ["net.pth"]


def test_begun_anew_where_nothing_is_left(server, tmp_path):
    """The file has become shorter on the server, or the process ended before the last step."""
    server.breaks_off_after = 30_000
    with pytest.raises(CheckpointError, match="broke off"):
        get(server.url("net.pth"))
    server.content, server.breaks_off_after = CONTENT[:20_000], None
    assert get(server.url("net.pth")).read_bytes() == CONTENT[:20_000]


@pytest.mark.parametrize("digits", [8, 16, 64])
def test_verified_by_the_digits_in_the_name(server, digits):
    assert get(server.url(f"net-{DIGEST[:digits]}.pth")).read_bytes() == CONTENT


def test_damaged_on_the_way(server, tmp_path):
    url = server.url(f"net-{DIGEST[:8]}.pth")
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(CheckpointError, match=f"{url} should have a SHA-256 that begins with {DIGEST[:8]}, got"):
        get(url)
    assert files(tmp_path) == []
    server.content = CONTENT
    assert get(url).read_bytes() == CONTENT


def test_resumed_files_are_verified_whole(server):
    url = server.url(f"net-{DIGEST[:8]}.pth")
    server.breaks_off_after = 30_000
    with pytest.raises(CheckpointError, match="broke off"):
        get(url)
    server.content, server.breaks_off_after = b"?" * len(CONTENT), None
    with pytest.raises(CheckpointError, match="damaged on the way"):
        get(url)


def test_no_such_file(server, tmp_path):
    url = server.url("missing.pth")
    with pytest.raises(CheckpointError, match=rf"{url} cannot be downloaded \(HTTP 404\); .* download it by hand"):
        get(url)
    assert files(tmp_path) == []


def test_no_connection(server, tmp_path):
    url = server.url("net.pth")
    server.shutdown()
    server.server_close()
    with pytest.raises(CheckpointError, match=f"{url} cannot be downloaded .*refused"):
        get(url)


def test_a_file_of_the_hub_folder_is_used_offline(server):
    path = get(server.url("net.pth"))
    server.shutdown()
    server.server_close()
    assert get(server.url("net.pth")) == path


def test_no_place_to_write(server, tmp_path):
    torch.hub.set_dir(tmp_path / "file")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be downloaded"):
        get(server.url("net.pth"))


@pytest.mark.parametrize("source", ["net.pth", "ftp://host/net.pth", "file:///net.pth", ""])
def test_other_schemes(source):
    with pytest.raises(CheckpointError, match=r"expected a URL that starts with https:// or hf://"):
        fetch(source)


def test_other_files(server):
    with pytest.raises(CheckpointError, match=r"expected the URL of a \.safetensors, \.pth, \.pt or \.bin file"):
        get(server.url("page.html"))


def test_drive_has_to_be_visited_by_hand():
    source = regard.models.MODELS["swiftformer_xs"].weights["official"].source
    with pytest.raises(CheckpointError, match=r"https://drive\.google\.com/uc\?id=12Rchx\w+.* by hand"):
        fetch(source)


def hub(monkeypatch, *outcomes):
    """Let the hub's answers be these, one after the other; return what it was asked."""
    asked, left = [], list(outcomes)

    def answer(name, file):
        asked.append((name, file))
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return str(outcome)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", answer)
    return asked


class Absent(hub_errors.EntryNotFoundError):
    """The repository has no such file; the package makes these from responses."""

    def __init__(self):
        Exception.__init__(self, "404")


class Offline(hub_errors.LocalEntryNotFoundError):
    """The file is not in the cache, and the hub cannot be asked."""

    def __init__(self):
        Exception.__init__(self, "offline")


def test_from_the_hub(monkeypatch, tmp_path):
    asked = hub(monkeypatch, tmp_path / "model.safetensors")
    assert fetch("hf://timm/net.in1k") == tmp_path / "model.safetensors"
    assert asked == [("timm/net.in1k", "model.safetensors")]


def test_from_the_hub_with_a_pickle_only(monkeypatch, tmp_path):
    asked = hub(monkeypatch, Absent(), tmp_path / "pytorch_model.bin")
    assert fetch("hf://owner/net") == tmp_path / "pytorch_model.bin"
    assert asked == [("owner/net", "model.safetensors"), ("owner/net", "pytorch_model.bin")]


def test_the_hub_has_no_weights(monkeypatch):
    hub(monkeypatch, Absent(), Absent())
    with pytest.raises(
        CheckpointError, match=r"owner/net on the hub has none of model\.safetensors, pytorch_model\.bin"
    ):
        fetch("hf://owner/net")


@pytest.mark.parametrize(
    "error", [OSError("no connection"), Offline(), hub_errors.OfflineModeIsEnabled("off")], ids=repr
)
def test_hub_offline(monkeypatch, error):
    hub(monkeypatch, error)
    with pytest.raises(CheckpointError, match=r"https://huggingface\.co/owner/net/resolve/main/model\.safetensors"):
        fetch("hf://owner/net")


def test_hub_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match="huggingface_hub"):
        fetch("hf://owner/net")


def test_weights_from_a_url(server, tmp_path):
    model = regard.models.create_model("nat_nano", num_classes=2)
    regard.models.save_weights(model, tmp_path / "saved.pth")
    server.content = (tmp_path / "saved.pth").read_bytes()
    again = regard.models.create_model("nat_nano", num_classes=2, weights=server.url("net.pth"))
    for name, tensor in load_state(tmp_path / "saved.pth").items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_truncated_for_good(server):
    """A file that is shorter than it was, without a hash in its name, fails when it is read."""
    server.content = b"PK\x03\x04" + CONTENT
    with pytest.raises(CheckpointError, match="cannot be read as plain tensors"):
        regard.models.create_model("nat_nano", num_classes=2, weights=server.url("net.pth"))


def test_waits_are_bounded():
    assert 0 < download.TIMEOUT <= 60
