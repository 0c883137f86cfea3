"""Tables and texts for the terminal, made of what the other rooms return as data."""
