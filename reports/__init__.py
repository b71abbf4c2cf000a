"""Shows what was measured: DataFrames in, text, figures and one page out. Knows nothing of how it was measured."""
