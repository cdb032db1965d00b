"""Priors made by hand: superpixels, saliency, hierarchies of regions, boxes, and masks from elsewhere. No network, no weights."""
