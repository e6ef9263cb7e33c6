"""The inspector: a page that shows what is shared, live, and changes nothing of it."""
