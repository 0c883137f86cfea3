"""The program `diffseg`: one module for each group of commands.

`program` holds the program itself. Heavy packages are imported inside the commands that need them, so that
the help and `diffseg status` start at once.
"""
