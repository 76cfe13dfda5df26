"""How numbers are computed: fast, spread over threads, exact, rounded to narrower formats."""
