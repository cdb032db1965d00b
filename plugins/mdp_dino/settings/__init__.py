"""Settings of the ViT priors, one file each; none imports torch."""
