"""Mistakes that people make, and what mdp says to each: the cases, and the page that is made of them (docs/errors.md)."""
