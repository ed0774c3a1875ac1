"""Check that all images of a source can be read, before training needs them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import torch

from regard.errors import BrokenImageError, DataError
from regard.training.data import Source
from regard.training.folders import SIDES
from regard.training.images import why_broken

THREADS = 8
BATCH = 256  # images that are checked before the progress is reported or Ctrl-C is answered
FORMAT = 1
AGAIN = "start again: all images are then decoded first, the broken ones listed, and left out with --skip-broken"

Seen = dict[str, tuple[int, int] | None]


class ReadableImages:
    """The images of a folder that were found readable, left in a file in torch's hub folder, `torch.hub.get_dir()`.

    A file is known by its size and its modification time. Where a file could not be read after all, all files are
    remembered as None, and are decoded the next time.

    Args:
        folder: the folder of images.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        name = sha256(str(self.folder.resolve()).encode()).hexdigest()[:16]
        self.file = Path(torch.hub.get_dir()) / "regard" / "images" / f"{name}.{FORMAT}.json"
        self.seen = self._load()

    def has(self, image: Path) -> bool:
        """Whether an image was found readable and has not changed since."""
        known = self.seen.get(self._key(image))
        return known is not None and known == _fingerprint(image)

    def is_suspect(self, image: Path) -> bool:
        """Whether an image is to be decoded, since it or another one looked complete and could not be read."""
        return self.seen.get(self._key(image), ()) is None

    def update(self, readable: Iterable[Path], suspects: Iterable[Path] = ()) -> None:
        """Add images and write the file. An unwritable file is no error, since the cache only saves time."""
        self.seen |= {self._key(image): _fingerprint(image) for image in readable}
        self.seen |= {self._key(image): None for image in suspects}
        unfinished = self.file.with_suffix(".unfinished")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(json.dumps(self.seen))
            unfinished.replace(self.file)
        except OSError:
            unfinished.unlink(missing_ok=True)

    def _key(self, image: Path) -> str:
        return image.relative_to(self.folder).as_posix()

    def _load(self) -> Seen:
        try:
            return {name: known and (known[0], known[1]) for name, known in json.loads(self.file.read_text()).items()}
        except (OSError, ValueError, AttributeError, TypeError, LookupError):  # no file, or one that is damaged
            return {}


def check_images(
    source: Source,
    folder: str | Path,
    *,
    skip_broken: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Source:
    """Check the headers and the ends of all image files of a source.

    Args:
        source: the source. Images that are no files need no check.
        folder: the folder that it was opened from.
        skip_broken: whether to leave out broken images instead of raising an error.
        progress: called with the number of images checked so far and the number to check.

    Returns:
        The source without its broken images.

    Raises:
        BrokenImageError: images cannot be read; the message lists all of them.
        DataError: no readable image of a class is left.
    """
    images = source.files()
    if not images:
        return source
    cache = ReadableImages(folder)
    new = [image for image in images if not cache.has(image)]
    reasons: dict[Path, str | None] = {}
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            for start in range(0, len(new), BATCH):
                batch = new[start : start + BATCH]
                reasons |= zip(batch, pool.map(partial(_check, cache), batch), strict=True)
                if progress is not None:
                    progress(len(reasons), len(new))
    finally:  # Ctrl-C must not lose what was checked
        if reasons:
            cache.update(image for image, reason in reasons.items() if reason is None)
    broken = {image: reason for image, reason in reasons.items() if reason is not None}
    if broken and not skip_broken:
        what = "it" if len(broken) == 1 else "them"
        raise BrokenImageError(
            broken, remedy=f"replace or remove {what}, or leave {what} out with --skip-broken (skip_broken=True)"
        )
    return _without(source, broken)


def suspect_all(source: Source, folder: str | Path) -> None:
    """Let the next check decode all images of a source, since one passed the check and could not be read."""
    if images := source.files():
        ReadableImages(folder).update((), suspects=images)


def _check(cache: ReadableImages, image: Path) -> str | None:
    return why_broken(image, decode=cache.is_suspect(image))


def _without(source: Source, broken: dict[Path, str]) -> Source:
    left = {side: tuple(each for each in getattr(source, side) if each[0] not in broken) for side in SIDES}
    for side, examples in left.items():
        before = {label for _, label in getattr(source, side)}
        for label in sorted(before - {label for _, label in examples}):
            raise DataError(
                f"expected at least one readable {side} image per class, got only broken ones of "
                f"{source.classes[label]!r}; replace them, or add images"
            )
    return replace(source, train=left["train"], val=left["val"], test=left["test"], skipped=broken)


def _fingerprint(image: Path) -> tuple[int, int] | None:
    try:
        status = image.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
