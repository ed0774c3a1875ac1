"""Name the class of an image with ONNX Runtime: `python serve_onnx.py model.onnx photo.jpg`.

The file is from `regard.export(model, "model.onnx", preprocess=True)`: it takes pixels and contains the class names.
With `kernels="regard"` it needs regard's library of operators, but neither regard's Python code nor PyTorch.
"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image


def open_session(file):
    options = onnxruntime.SessionOptions()
    try:
        return onnxruntime.InferenceSession(file, options)
    except Exception as error:
        regard = importlib.util.find_spec("regard")  # finds the package without importing it
        if "regard" not in str(error) or regard is None:
            raise
    libraries = [Path(folder, "native", "libregard_onnxruntime.so") for folder in regard.submodule_search_locations]
    options.register_custom_ops_library(str(next(library for library in libraries if library.is_file())))
    return onnxruntime.InferenceSession(file, options)


def read_pixels(file, image_size, crop_pct, interpolation, crop_mode, **_):
    """Resize and crop an image to the pixels that the model takes, `[1, H, W, 3]`."""
    image = Image.open(file).convert("RGB")
    whole, shorter = int(image_size / crop_pct), min(image.size)
    sides = [whole if crop_mode == "squash" else int(whole * length / shorter) for length in image.size]
    starts = [round((side - image_size) / 2) for side in sides]
    edges = (*starts, *(start + image_size for start in starts))
    box = [edge * length / side for edge, length, side in zip(edges, image.size * 2, sides * 2, strict=True)]
    return np.array(image.resize((image_size, image_size), Image.Resampling[interpolation.upper()], box))[None]


session = open_session(sys.argv[1])
metadata = json.loads(session.get_modelmeta().custom_metadata_map["regard"])
pixels = read_pixels(sys.argv[2], **metadata["preprocessing"])
(probabilities,) = session.run(None, {"pixels": pixels})
best = int(probabilities[0].argmax())
print(f"{metadata['classes'][best]} {probabilities[0, best]:.3f}")
