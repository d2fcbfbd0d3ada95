"""Models as data: folders in the hub's format, kept locally, detected, verified and opened under a recipe."""

from embedserve.embedding.models.opening import load

__all__ = ["load"]
