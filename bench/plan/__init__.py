"""What to run. Imports no torch."""
