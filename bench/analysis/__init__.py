"""What a set of records means: pure functions from DataFrame to DataFrame. No file is read or written here."""
