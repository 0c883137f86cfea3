"""Searches and recommendations: which configurations to try next."""
