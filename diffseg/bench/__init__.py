"""How fast this machine trains, predicts and evaluates, compared with other implementations."""
