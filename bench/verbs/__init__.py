"""The verbs of the command line, a file each: reads its arguments, calls the rooms, and prints."""
