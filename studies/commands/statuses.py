"""Exit statuses of the program. 0: everything that was asked for is done."""

from studies.engine.signals import STOPPED

FAILED_TRIALS = 1  # some trials failed, or `data check` and `cluster check` found problems
WRONG_USE = 2  # the command line, a file or a data set cannot be used
MACHINERY = 3  # Ray, the store or the disk failed

__all__ = ["FAILED_TRIALS", "MACHINERY", "STOPPED", "WRONG_USE"]
