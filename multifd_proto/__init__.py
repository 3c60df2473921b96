"""multifd-proto: QEMU's multifd live-migration wire protocol, as a specification that runs."""

__version__ = "0.1.0"
