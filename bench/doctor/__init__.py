"""What this machine, and every host of a hostfile, has: read first, judged after."""
