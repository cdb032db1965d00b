"""Detector mask-rcnn: Mask R-CNN through MMDetection, without compiled operators."""
