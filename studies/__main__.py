"""`python -m studies` runs the program `diffseg`."""

import os
import sys

if not sys.flags.safe_path and sys.path[0] != os.path.dirname(os.path.dirname(__file__)):
    del sys.path[0]  # the current folder, which `python -m` puts first: nothing shall be imported from it

from studies.commands.program import main

if __name__ == "__main__":
    main(prog_name="diffseg")
