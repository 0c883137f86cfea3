"""Study definitions: TOML files, and the trials that they define."""
