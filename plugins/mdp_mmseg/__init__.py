"""Segmenter ``deeplabv3``: DeepLab-v3 by MMSegmentation, trained on noisy label maps with hard pixel mining."""
