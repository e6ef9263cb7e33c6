"""Windows handles on drivers that only know descriptors."""

from extmem.drivers.bridge.driver import Bridge

__all__ = ["Bridge"]
