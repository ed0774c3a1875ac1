"""The names of ImageNet's classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from regard.extras import require


def class_names(num_classes: int) -> tuple[str, ...] | None:
    """Return the names of the classes of ImageNet, or of the part of it that has so many classes.

    Classes with equal names have their WordNet id appended, as in "crane (n02012849)".

    Returns:
        The names in the order of the logits, or None if no part of ImageNet has so many classes.

    Source:
        `timm.data.ImageNetInfo`.

    Example:
        >>> class_names(1000)[0]
        'tench, Tinca tinca'
        >>> class_names(10) is None
        True
    """
    known = _read(num_classes)
    if known is None:
        return None
    counts = Counter(known.values())
    return tuple(name if counts[name] == 1 else f"{name} ({synset})" for synset, name in known.items())


def class_aliases(num_classes: int) -> dict[str, int]:
    """Return the index of each name by which data may call a class: WordNet id, full name, or a unique synonym.

    Example:
        >>> aliases = class_aliases(1000)
        >>> aliases["n01440764"], aliases["tench"], "crane" in aliases
        (0, 0, False)
    """
    known, names = _read(num_classes), class_names(num_classes)
    if known is None or names is None:
        return {}
    synonyms = [{normalize(part) for part in name.split(",")} | {normalize(name)} for name in known.values()]
    counts = Counter(part for parts in synonyms for part in parts)
    aliases = {part: index for index, parts in enumerate(synonyms) for part in parts if counts[part] == 1}
    return aliases | _numbered(map(normalize, names)) | _numbered(known)


def normalize(name: str) -> str:
    """Return the form of a name in which names are compared: lower case, spaces for underscores.

    Example:
        >>> normalize("Great_White_Shark ")
        'great white shark'
    """
    return name.casefold().replace("_", " ").strip()


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: index for index, name in enumerate(names)}


def _read(num_classes: int) -> Mapping[str, str] | None:
    """Return the name of each class by its WordNet id, in the order of the logits."""
    data = require("timm.data", extra="train")
    subset = data.infer_imagenet_subset({"num_classes": num_classes})
    return None if subset is None else data.ImageNetInfo(subset).label_descriptions(as_dict=True)
