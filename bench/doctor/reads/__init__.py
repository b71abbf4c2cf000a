"""What is there: plain figures of one host. Needs Python's standard library alone; whatever else is missing is said."""
