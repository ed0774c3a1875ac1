"""The figures and tensors of every model in `frozen/FAMILY.json`, which `python tests/models/frozen.py` writes.

Sources, accuracies, licenses and preprocessing were compared with the authors' pages when they were frozen. Read the
diff before committing a new file: published weights do not load into other tensors.
"""

import json
import re
from dataclasses import asdict
from pathlib import Path

from regard.models import FAMILIES
from regard.models._meta import on_meta

FOLDER = Path(__file__).parent / "frozen"


def path_of(family):
    return FOLDER / f"{family.__name__.lower()}.json"


def describe(family, name):
    """Describe a variant: its published figures, and the shapes of its tensors."""
    variant = family.variants[name]
    with on_meta():
        tensors = family(variant.config, num_classes=variant.num_classes).state_dict()
    return {
        "parameters": variant.parameters,
        "gmacs": variant.gmacs,
        "image_size": variant.image_size,
        "num_classes": variant.num_classes,
        "weights": {word: json.loads(json.dumps(asdict(weights))) for word, weights in variant.weights.items()},
        "tensors": shorten({key: list(tensor.shape) for key, tensor in tensors.items()}),
    }


def shorten(shapes):
    """Write tensors of one shape as one where only their last number differs: `levels.0.blocks.{0-2}.norm1.bias`."""
    numbers = {}
    for name, shape in shapes.items():
        head, number, tail = re.fullmatch(r"(?:(.*\.))?(?:(\d+)(\..*))|.*", name).groups()
        key = (name, "", str(shape)) if number is None else (head or "", tail, str(shape))
        numbers.setdefault(key, []).append(number)
    return {
        head if found == [None] else f"{head}{ranges([int(number) for number in found])}{tail}": shape
        for (head, tail, shape), found in numbers.items()
    }


def ranges(numbers):
    """Write increasing numbers as ranges, 0, 1, 2 and 5 as `{0-2,5}`; one number stays as it is."""
    runs = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    written = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
    return written if len(numbers) == 1 else f"{{{written}}}"


def differences(frozen, found, where=""):
    """List the places where two descriptions differ, as `place: frozen -> found`."""
    if not (isinstance(frozen, dict) and isinstance(found, dict)):
        return [] if frozen == found else [f"{where}: {frozen} -> {found}"]
    return [
        line
        for key in dict.fromkeys((*frozen, *found))
        for line in differences(frozen.get(key), found.get(key), f"{where}/{key}".strip("/"))
    ]


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for family in FAMILIES:
        described = {name: describe(family, name) for name in family.variants}
        path_of(family).write_text(json.dumps(described, indent=1) + "\n")
