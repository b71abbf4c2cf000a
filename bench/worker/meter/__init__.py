"""With what one rank measures: clocks, memory, environment."""
