"""Adapters for torchvision's classes, one file per family."""

from regard.surgery.for_torchvision import mlp, swin, video_swin

__all__ = ["mlp", "swin", "video_swin"]
