"""What a study costs, and whether its data sets can be used, before anything runs."""
