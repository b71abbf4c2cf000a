"""What was measured: records, and where they are kept. Imports no torch."""
