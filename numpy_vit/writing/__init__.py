"""What is shown: columns on a terminal, JSON, pages that are one file."""
