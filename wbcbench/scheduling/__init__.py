"""From a request to trials in dependency order, and the executors that run them."""
