"""Adapters and folds for the classes of Hugging Face transformers 5, one file per family."""

from regard.surgery.for_transformers import beit, dinat, mlp, mobilevitv2, qwen, swiftformer, swin, vit

__all__ = ["beit", "dinat", "mlp", "mobilevitv2", "qwen", "swiftformer", "swin", "vit"]
