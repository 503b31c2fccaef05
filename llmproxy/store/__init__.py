"""The store: captured exchanges and turns in the SQLite database of `llm`."""
