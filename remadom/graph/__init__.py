"""kNN graphs over cells and the penalty that keeps neighborhoods."""

from remadom.graph.builder import GraphBuilder
from remadom.graph.laplacian import GraphRegularizer

__all__ = ["GraphBuilder", "GraphRegularizer"]
