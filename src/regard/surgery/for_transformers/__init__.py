"""Adapters and folds for the classes of Hugging Face transformers 5, one file per family."""

from regard.surgery.for_transformers import dinat, mlp, mobilevitv2, swiftformer, swin, vit

__all__ = ["dinat", "mlp", "mobilevitv2", "swiftformer", "swin", "vit"]
