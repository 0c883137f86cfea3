"""Prediction: ensembles of sampled masks, for test images and for new ones."""
