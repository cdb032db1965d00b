"""Pretraining: backbones that learn from images without labels."""
