"""Between processes: what travels beside a handle, and how handles travel."""
