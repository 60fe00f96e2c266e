"""Decoders: one file and one line here for each kind."""

from remadom.core.decoders.adt import ADTMixtureDecoder, NBMixtureDecoder
from remadom.core.decoders.atac import ATACDecoderBernoulli
from remadom.core.decoders.base import DECODERS, Decoder
from remadom.core.decoders.counts import NBDecoder, ZeroTruncatedNBDecoder
from remadom.core.decoders.fragments import PoissonDecoder, ZeroTruncatedPoissonDecoder
from remadom.core.decoders.gaussian import GaussianDecoder, GaussianMixtureDecoder
from remadom.core.decoders.methylation import BetaDecoder
from remadom.core.decoders.rna import RNADecoderZINB

__all__ = [
    "DECODERS",
    "ADTMixtureDecoder",
    "ATACDecoderBernoulli",
    "BetaDecoder",
    "Decoder",
    "GaussianDecoder",
    "GaussianMixtureDecoder",
    "NBDecoder",
    "NBMixtureDecoder",
    "PoissonDecoder",
    "RNADecoderZINB",
    "ZeroTruncatedNBDecoder",
    "ZeroTruncatedPoissonDecoder",
]
