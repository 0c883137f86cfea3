"""Diffusion segmentation of medical images: the science, in plain PyTorch."""

__version__ = "0.1.0"
