"""Negative log-likelihoods, exact and sparse: one file for each kind, ``block`` for how they are summed."""

from remadom.core.likelihood.bernoulli import Bernoulli, Opened, bernoulli_nll, opened_nll
from remadom.core.likelihood.beta import OrderedBeta, ordered_beta_nll
from remadom.core.likelihood.block import Affine, Family, whole
from remadom.core.likelihood.gaussian import Gaussian, GaussianMixture, gaussian_mixture_nll, gaussian_nll
from remadom.core.likelihood.nb import (
    NBMixture,
    NegativeBinomial,
    PositiveNegativeBinomial,
    nb_mixture_nll,
    nb_nll,
    positive_nb_nll,
)
from remadom.core.likelihood.poisson import (
    Poisson,
    PoissonMixture,
    PositivePoisson,
    poisson_mixture_nll,
    poisson_nll,
    positive_poisson_nll,
)
from remadom.core.likelihood.zinb import ZINB, LibraryZINB, library_zinb_nll, zinb_nll

__all__ = [
    "ZINB",
    "Affine",
    "Bernoulli",
    "Family",
    "Gaussian",
    "GaussianMixture",
    "LibraryZINB",
    "NBMixture",
    "NegativeBinomial",
    "Opened",
    "OrderedBeta",
    "Poisson",
    "PoissonMixture",
    "PositiveNegativeBinomial",
    "PositivePoisson",
    "bernoulli_nll",
    "gaussian_mixture_nll",
    "gaussian_nll",
    "library_zinb_nll",
    "nb_mixture_nll",
    "nb_nll",
    "opened_nll",
    "ordered_beta_nll",
    "poisson_mixture_nll",
    "poisson_nll",
    "positive_nb_nll",
    "positive_poisson_nll",
    "whole",
    "zinb_nll",
]
