"""Conversion of checkpoint files between namings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from regard.checkpoint import LoadReport, Naming, State, detect_namings, export_state, fields_to_store, save_state
from regard.errors import CheckpointError, OptionError
from regard.models._backbone import Backbone
from regard.models._families import MODELS, NAMINGS, family_of
from regard.models._identify import variants_of
from regard.models._loading import Read, configure, load_read, read
from regard.models._meta import on_meta
from regard.models.fields import override


@dataclass(frozen=True)
class ConvertReport:
    """The result of converting a checkpoint.

    Attributes:
        model: the name of the model.
        loaded: the naming of the source, and how many of its tensors were used.
        tensors: number of tensors in the target.
        target: the file that was written.
        naming: the naming of its tensors.
    """

    model: str
    loaded: LoadReport
    tensors: int
    target: Path
    naming: str

    def __str__(self) -> str:
        """Write the report in one line."""
        written = f"wrote {self.tensors} tensors to {self.target} in the naming of {self.naming}"
        return f"{self.model}: {self.loaded}; {written}"


def convert_checkpoint(
    source: str | Path | State,
    target: str | Path,
    naming: str,
    *,
    model: str | None = None,
    ema: bool = False,
    **overrides: object,
) -> ConvertReport:
    """Write a checkpoint with the tensor names of another naming.

    The model is built with the classes and channels of the checkpoint, and every tensor is accounted for. Values do not
    change, but are written in float32.

    Args:
        source: a file, a URL, a hub id or a state dict, as in `load_weights`.
        target: the file to write: .safetensors, .pth, .pt or .bin. It must not exist.
        naming: one of `regard.models.NAMINGS`: "official", "timm", "hf", "hf5" or "regard".
        model: the name of the model; None recognizes it by names and shapes.
        ema: whether to take the averaged weights of a training script's file.
        **overrides: fields of the model's configuration, as in `create_model`.

    Returns:
        The model, the naming of the source, and the number of tensors.

    Raises:
        OptionError: an unknown naming, model or field.
        CheckpointError: a target that exists; a source that cannot be read, that no model has, or that several models
            with other names in this naming have; a model whose outputs would differ in the code that uses this naming.

    Example:
        >>> import tempfile
        >>> from regard.models import create_model
        >>> state = create_model("swiftformer_nano", num_classes=10).state_dict()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = convert_checkpoint(state, f"{folder}/net.safetensors", "timm")
        >>> report.model, report.tensors
        ('swiftformer_nano', 169)
    """
    if naming not in NAMINGS:
        raise OptionError.unknown("naming", naming, NAMINGS)
    target = Path(target)
    if target.exists():
        raise CheckpointError(f"{target} exists and is not replaced; name another file, or remove it")
    found = read(source, ema=ema)
    names = [name for name, _ in variants_of(found.state)] if model is None else [model]
    built = {name: _build(name, found, overrides) for name in names}
    _check_that_all_agree(found, naming, built)
    name, candidate = next(iter(built.items()))
    network = candidate.model.to_empty(device="cpu")
    report = load_read(network, found, new_classifier=False, namings=candidate.namings)
    state = export_state(network, naming)
    save_state(state, target, fields_to_store(network))
    return ConvertReport(name, report, len(state), target, naming)


class _Candidate(NamedTuple):
    """A model on the meta device, and the namings that were detected for it."""

    model: Backbone[Any]
    namings: tuple[Naming, ...]


def _build(name: str, source: Read, overrides: Mapping[str, object]) -> _Candidate:
    """Build a model with the classes and channels of a checkpoint, and the fields that its naming requires."""
    if name not in MODELS:
        raise OptionError.unknown("model", name, MODELS)
    config, family = override(name, MODELS[name].config, overrides), family_of(name)
    with on_meta():
        like = family(config)
        namings = detect_namings(source.state, like)
        classifier, first = (
            source.state.get(namings[0].sources(f"{layer}.weight")[0].name)
            for layer in (like.classifiers[0], like.first_conv)
        )
        model = family(
            configure(name, config, namings[0], source, overrides),
            num_classes=0 if classifier is None else len(classifier),
            in_chans=like.in_chans if first is None or first.ndim != 4 else first.shape[1],
        )
    return _Candidate(model, namings)


def _check_that_all_agree(source: Read, naming: str, built: Mapping[str, _Candidate]) -> None:
    """Check that the tensors get the same names, whichever of the models it is."""
    layouts = {
        tuple((name, tuple(tensor.shape)) for name, tensor in export_state(each.model, naming).items())
        for each in built.values()
    }
    if len(layouts) > 1:
        raise CheckpointError(
            f"{source.where} may be of {' or '.join(built)}, whose tensors have other names in the naming of {naming}; "
            "pass the name of its model (--model on the command line)"
        )
