"""The version of the plugin interface."""

API_VERSION = 1
"""Raised when ``mdp_core.api`` changes in a way that breaks plugins; the host supports this version and the one before."""
