"""Questions by the million over a Ray cluster: an actor on each node, with an engine of its own."""

from .dataset import answer_dataset

__all__ = ["answer_dataset"]
