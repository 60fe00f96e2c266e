"""The generative model: encoders, fusion, decoders, likelihoods."""
