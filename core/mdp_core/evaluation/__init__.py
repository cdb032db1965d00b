"""Evaluation against ground truth: the only part of the platform that reads it."""
