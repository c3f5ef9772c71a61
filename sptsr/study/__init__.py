"""Studies: rows, arms and seeds over two option files; what is missing is run, and the table is made."""
