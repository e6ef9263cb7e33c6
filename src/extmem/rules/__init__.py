"""Valid Usage: what must hold before a driver is called, one function per rule."""
