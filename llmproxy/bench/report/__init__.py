"""What a run found, shown: statistics, a table for the terminal, a page for the browser, JSON and CSV."""
