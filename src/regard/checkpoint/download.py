"""Downloads of published files: once, resumed after an interruption, verified where a hash is known."""

from __future__ import annotations

import hashlib
import re
from http.client import HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import torch
from filelock import FileLock
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from regard.checkpoint.files import SUFFIXES
from regard.errors import CheckpointError
from regard.extras import require

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
TIMEOUT = 30.0  # seconds without a byte
BLOCK = 1 << 20


def fetch(source: str, *, progress: bool = True) -> Path:
    """Download a published checkpoint, unless an earlier call did, and return its file.

    Args:
        source: `https://...` of a file, or `hf://owner/name` of a repository on the Hugging Face hub. A URL's file goes
            to torch's hub folder, `torch.hub.get_dir()`, and a hub's file to the cache of huggingface_hub.
        progress: whether to show a progress bar.

    Raises:
        CheckpointError: no connection, no such file, or a file whose SHA-256 does not begin with the digits at the end
            of its name. The message has the URL for a download by hand.
        MissingDependencyError: a hub id without huggingface_hub.
    """
    scheme, _, rest = source.partition("://")
    if scheme == "hf":
        return _fetch_from_hub(rest)
    if scheme == "drive":
        raise CheckpointError(
            "these weights must be downloaded manually, since Google Drive serves browsers only: download "
            f"https://drive.google.com/uc?id={rest} by hand and pass the file's path"
        )
    if scheme not in ("http", "https"):
        raise CheckpointError(f"expected a URL that starts with https:// or hf://, got {source}")
    path = _place(source)
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.parent.with_suffix(".lock")):  # processes that start together download once
                if not path.is_file():
                    _download(source, path, progress)
        except (URLError, OSError) as error:
            reason = f"HTTP {error.code}" if isinstance(error, HTTPError) else getattr(error, "reason", error)
            raise CheckpointError(
                f"{source} cannot be downloaded ({reason}); check the connection, or download it by hand and pass "
                "the file's path"
            ) from None  # 70 lines of the HTTP client say no more than the reason
    return path


def _place(url: str) -> Path:
    """Return the path of a download; files of one name from two URLs have two paths."""
    name = Path(urlsplit(url).path).name
    if Path(name).suffix not in SUFFIXES:
        raise CheckpointError(f"expected the URL of a .safetensors, .pth, .pt or .bin file, got {url}")
    return Path(torch.hub.get_dir()) / "regard" / hashlib.sha256(url.encode()).hexdigest()[:8] / name


def _download(url: str, path: Path, progress: bool) -> None:
    partial = path.with_name(path.name + ".partial")
    begun = partial.stat().st_size if partial.is_file() else 0
    try:
        response = _request(url, begun)
    except HTTPError as error:
        if error.code != 416:  # the download was complete, or the file has changed
            raise
        response = _request(url, 0)
    columns = (TextColumn(path.name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with response, Progress(*columns, transient=True, disable=not progress) as bar:
        begun = begun if response.status == 206 else 0  # 200: the server sends all of it
        rest = response.headers.get("Content-Length")
        total = None if rest is None else begun + int(rest)
        task = bar.add_task(path.name, total=total, completed=begun)
        with partial.open("ab" if begun else "wb") as file:
            while block := response.read(BLOCK):
                file.write(block)
                bar.advance(task, len(block))
    if total is not None and partial.stat().st_size > total:
        partial.unlink()
        raise CheckpointError(f"{url} has changed since its first part was downloaded, which is removed; call again")
    if total is not None and partial.stat().st_size < total:
        raise CheckpointError(
            f"{url} broke off after {partial.stat().st_size} of {total} bytes; call again to download the rest"
        )
    _verify(url, partial)
    partial.replace(path)


def _request(url: str, begun: int) -> HTTPResponse:
    headers = {"User-Agent": "regard"} | ({"Range": f"bytes={begun}-"} if begun else {})
    response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    return response


def _verify(url: str, path: Path) -> None:
    match = re.search(r"-([0-9a-f]{8,64})\.\w+$", urlsplit(url).path)  # as torch.hub names files
    if match is None:
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    if not digest.hexdigest().startswith(match[1]):
        path.unlink()
        raise CheckpointError(
            f"the file from {url} should have a SHA-256 that begins with {match[1]}, got {digest.hexdigest()[:16]}; "
            "it was damaged on the way and is removed; call again"
        )


def _fetch_from_hub(name: str) -> Path:
    hub = require("huggingface_hub", extra="hub")
    errors = require("huggingface_hub.errors", extra="hub")
    for file in HUB_FILES:
        try:
            return Path(hub.hf_hub_download(name, file))
        except Exception as error:  # each of no connection, no repository and no permission has its own
            offline = isinstance(error, errors.LocalEntryNotFoundError)  # which inherits from EntryNotFoundError
            if isinstance(error, errors.EntryNotFoundError) and not offline:
                continue
            url = f"https://huggingface.co/{name}/resolve/main/{file}"
            raise CheckpointError(
                f"{name} cannot be downloaded from the hub ({type(error).__name__}); check name and connection, or "
                f"download {url} by hand and pass the file's path"
            ) from None
    raise CheckpointError(f"{name} on the hub has none of {', '.join(HUB_FILES)}; pass the path of a file instead")
