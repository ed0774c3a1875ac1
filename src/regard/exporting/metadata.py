"""What an exported file says about itself: classes, preprocessing, origin, versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import torch

from regard.models import Preprocessing
from regard.training.versions import version

KEY = "regard"
"""Of the metadata in a file, which are JSON."""


@dataclass(frozen=True)
class Metadata:
    """The metadata of an exported model.

    Attributes:
        model: its name, or the folder of its run.
        weights: where they came from.
        classes: in the order of the logits.
        preprocessing: from a photograph to the model's input.
        is_preprocessed: whether the file normalizes: it takes pixels `[B, H, W, 3]` in uint8 and gives probabilities.
        kernels: "standard", or "regard" for operators that need regard's library.
        batch: images of a call; None if any number.
        dynamic: the axes that may have any length: "batch", "size".
        in_chans: channels of the images.
        versions: of the packages that made the file.
    """

    model: str
    weights: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    is_preprocessed: bool = False
    kernels: str = "standard"
    batch: int | None = None
    dynamic: tuple[str, ...] = ()
    in_chans: int = 3
    versions: Mapping[str, str] = field(default_factory=lambda: versions("onnx", "onnxscript"))

    def dumps(self) -> str:
        """Return the metadata as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Metadata:
        """Read what `dumps` has written.

        Example:
            >>> one = Metadata("nat_nano", "none", ("cat", "dog"), Preprocessing(32))
            >>> Metadata.loads(one.dumps()) == one
            True
        """
        values = json.loads(text)
        for name in ("classes", "dynamic"):
            values[name] = tuple(values[name])
        options = values["preprocessing"]
        for name in ("mean", "std"):
            options[name] = tuple(options[name])
        values["preprocessing"] = Preprocessing(**options)
        return cls(**values)


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of torch, regard and these packages, as far as they are installed."""
    found = {package: version(package) for package in ("regard", *packages)}
    return {"torch": torch.__version__, **{name: text for name, text in found.items() if text is not None}}
