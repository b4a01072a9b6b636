"""Taking a trained network away: export it, predict new cells with it, explain its answers, report on a record."""
