"""multifd-proto: QEMU's multifd live-migration wire protocol, as a specification that runs."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def scapy_ext(ext: Any) -> None:
    """Register `scapy.contrib.multifd`: scapy calls this in `conf.exts.load("multifd-proto")`."""
    path = f"{__path__[0]}/views/scapy_contrib.py"
    ext.config("multifd-proto", __version__)
    ext.register(name="multifd", mode=ext.MODE.CONTRIB, path=path)
