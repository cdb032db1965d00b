"""Clusterer: k-means on embeddings of masks."""
