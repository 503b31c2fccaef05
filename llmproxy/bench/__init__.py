"""Captured turns run again, against other models: `llmproxy bench`."""
