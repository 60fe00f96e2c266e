"""Decoders: one file and one line here for each."""

from remadom.core.decoders.adt import ADTMixtureDecoder
from remadom.core.decoders.atac import ATACDecoderBernoulli
from remadom.core.decoders.base import DECODERS, Decoder
from remadom.core.decoders.rna import RNADecoderZINB

__all__ = ["DECODERS", "ADTMixtureDecoder", "ATACDecoderBernoulli", "Decoder", "RNADecoderZINB"]
