"""The tracer: every step of the forward pass with its shapes and its cost, from a config alone."""
