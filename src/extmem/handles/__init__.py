"""Operating-system handles: owned once, closed once."""
