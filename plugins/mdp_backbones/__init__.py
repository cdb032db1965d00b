"""Backbones for plugins: weights, readers of ViTs and ResNets, preprocessing (a library, not a plugin)."""
