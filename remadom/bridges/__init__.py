"""Bridges: where correspondences between cells come from."""

from remadom.bridges.base import BRIDGES, Bridge
from remadom.bridges.dictionary import DictionaryBridge
from remadom.bridges.gw import GWBridge
from remadom.bridges.linked_features import LinkedFeaturesBridge
from remadom.bridges.linmap import LinearMapBridge
from remadom.bridges.mnn import MNNBridge
from remadom.bridges.seeded import SeededBridge

__all__ = [
    "BRIDGES",
    "Bridge",
    "DictionaryBridge",
    "GWBridge",
    "LinearMapBridge",
    "LinkedFeaturesBridge",
    "MNNBridge",
    "SeededBridge",
]
