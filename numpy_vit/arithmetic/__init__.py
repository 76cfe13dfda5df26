"""How numbers are computed: fast, divided between threads, exact, rounded to narrower formats."""
