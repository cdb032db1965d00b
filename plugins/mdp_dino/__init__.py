"""Priors from the attention of self-supervised ViTs."""
