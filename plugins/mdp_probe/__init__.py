"""Probes: what frozen features know of the true classes, by a linear classifier or by their nearest neighbours."""
