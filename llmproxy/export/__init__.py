"""`llmproxy export`: captured turns as lines of JSON, in the formats of others."""
