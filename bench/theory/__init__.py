"""What should happen: closed forms. Imports no torch."""
