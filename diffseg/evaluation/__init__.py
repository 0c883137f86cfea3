"""Evaluation: the metrics of predictions against the raters' masks."""
