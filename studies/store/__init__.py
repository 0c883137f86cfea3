"""The store: what a study wants and what its trials found, as files."""
