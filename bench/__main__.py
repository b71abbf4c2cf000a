"""`python -m bench` is `scalebench`."""

from bench.cli import main

main()
