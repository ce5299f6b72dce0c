"""Where a server listens, and whose requests it answers; known before torch is imported."""

import importlib.util
import ipaddress
import socket
from urllib.parse import urlsplit

from e5ft.errors import ConfigurationError

PACKAGES = ("starlette", "uvicorn")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: a name or address of this machine.
        port: 0 to 65535; 0 takes a free one.

    Raises:
        ConfigurationError: the packages that serve are not installed, or the address cannot be had.
    """
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigurationError(f"serve needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]
        if isinstance(error, socket.gaierror) or port == 0:
            message = f"host={host}: no address of this machine ({reason}); must be as 127.0.0.1"
        else:
            message = f"port={port}: cannot be had at {host} ({reason}); choose another, or port=0 for a free one"
        raise ConfigurationError(message) from error


def address_of(listening: socket.socket) -> str:
    """The URL at which a listening socket is found."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def is_local(host: str) -> bool:
    """Whether only this machine can reach it."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_trusted(header: str, host: str) -> bool:
    """Whether a request's Host header names this server as its own user would.

    A page of somebody else's whose name was made to point here (DNS rebinding) comes with that name, never with an address.

    Args:
        header: NAME, or NAME:PORT.
        host: that the server was told to listen at.
    """
    try:
        name = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    return name in ("localhost", host.lower()) or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
