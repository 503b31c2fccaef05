"""What this machine is called when it speaks to itself."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether a host name or address, without a port, means this machine by itself (RFC 6761 section 6.3)."""
    host = host.lower().strip("[]").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
