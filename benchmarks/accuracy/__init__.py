"""Accuracy after the same processor time on the same images: this package, StarDist 2D and torchvision's Mask R-CNN."""
