"""How fast this machine trains and predicts, measured in turns within one process."""
