"""The values that flow through remadom: rows, batches, posteriors, graphs, edges, views."""

from remadom.types.batch import Batch
from remadom.types.edges import BridgeEdges
from remadom.types.graph import SparseGraph
from remadom.types.latent import Latent, Logs, Posterior
from remadom.types.rows import DENSE_FROM, Rows
from remadom.types.support import Support
from remadom.types.view import View

__all__ = [
    "DENSE_FROM",
    "Batch",
    "BridgeEdges",
    "Latent",
    "Logs",
    "Posterior",
    "Rows",
    "SparseGraph",
    "Support",
    "View",
]
