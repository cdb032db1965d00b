"""Datasets: generated scenes, a folder of images, PASCAL VOC."""
