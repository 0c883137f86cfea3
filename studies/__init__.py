"""Studies: their definitions, the engine that runs and resumes their trials, and the store that keeps the results."""
