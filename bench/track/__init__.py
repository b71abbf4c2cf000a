"""Did it change since last week? Stored step times, given to pytest-benchmark, and the gate before its history."""
