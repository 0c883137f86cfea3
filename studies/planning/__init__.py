"""What a study would cost, and whether its data can be used, before anything runs."""
