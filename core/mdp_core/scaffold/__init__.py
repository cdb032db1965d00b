"""Writes packages of new plugins: ``mdp plugins new``."""
