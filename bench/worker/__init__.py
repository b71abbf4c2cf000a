"""What one rank runs. Started by a launcher (`--module bench.worker.train`), imported by nothing else in bench."""
