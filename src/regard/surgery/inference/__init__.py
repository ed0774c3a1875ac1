"""Folding and packing the layers of a model for inference."""
