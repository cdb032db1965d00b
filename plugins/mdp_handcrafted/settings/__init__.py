"""Settings of the handcrafted priors, one file each; none imports a library of images."""
