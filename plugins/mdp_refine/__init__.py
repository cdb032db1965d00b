"""Refiners: predictions to label maps."""
