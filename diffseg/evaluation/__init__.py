"""Evaluation: predictions against the raters' masks.

registry.py lists the metrics, each with its function; case.py has these functions, of one test image. metrics.py, ambiguity.py and
calibration.py have the formulas on tensors, split.py evaluates a test split, and pareto.py ranks trials by several metrics.
"""
