"""The HTTP/1.1 server's side of a connection, as a protocol class for uvicorn's server."""
