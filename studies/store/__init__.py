"""The store: a study's desired state, the results of its trials, and their unfinished work, as files."""
