"""Images: what they are made as, whether a device takes that, and the object."""
