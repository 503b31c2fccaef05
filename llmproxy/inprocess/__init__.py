"""Upstreams that run in our own process, as ASGI apps loaded by import string."""
