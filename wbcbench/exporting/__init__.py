"""Taking a trained network away: files that run without wbcbench, checked against the network they came from."""
