"""Names of the files and folders that the engine keeps in a study's folder beside the ledger's tables."""

SCRATCH = "scratch"  # folder of Ray's own files, which nobody needs after the session
STOP = "stop"  # file of a study; while it exists, its trials end at a checkpoint
TRAINED_BY = "heir"  # file of a trial: the name of the trial whose training it reuses
STARTS = "starts.json"  # file of a trial: how often it was started from its newest checkpoints, by node
