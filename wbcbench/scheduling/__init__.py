"""Plans the trials of a request in dependency order, and the executors that run them."""
