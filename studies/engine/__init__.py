"""The engine runs the trials that a study lacks, on Ray. The ledger alone says what is missing; Ray's state is scratch.

A run consists of three kinds of processes:

- The session (`session.run`, one for each `diffseg run`) holds the study's lock, starts a Ray or joins a cluster, and runs
  Tune. Tune asks `LedgerSearcher` for the next trial, which asks `Scheduler`, which reads the ledger.
- A driver (`driver.run_driver`, one for each trial that runs, beside the head) is a Tune trial that makes Ray Train run one
  `TrialRequest` on workers and replaces workers that die. It reports to Tune only that the trial has ended.
- A worker (`worker.run_trial`, where the CPUs or GPUs are) trains and evaluates the trial. The first of several workers
  writes everything: checkpoints, progress, log, rungs and, last, the trial's rows in the ledger.

A `TrialRequest` travels from the session to the driver to the workers. Everything else goes through the store: a worker
reads there how other trials did at a rung (`pruning`) and whether it has to stop (`files.STOP`), and the session's
`Display` reads the progress of all trials. A process that dies loses nothing but the steps since the last checkpoint: the
driver starts a dead worker again, the session a dead driver, and the same command a dead session.

`cluster_check` and `submission` deal with files that describe clusters; they take no part in a run.
"""
