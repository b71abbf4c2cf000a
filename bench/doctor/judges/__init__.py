"""Whether that is good: pure functions from readings to findings."""
