"""mdp: a modular platform for unsupervised segmentation experiments (the engine; it knows no plugin by name)."""

__version__ = "0.1.0"
