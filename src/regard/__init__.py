"""Efficient attention for vision in PyTorch."""

from regard import attention

__all__ = ["attention"]
