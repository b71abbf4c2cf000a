"""Who starts the ranks, in which order, and what became of them. Imports no torch."""
