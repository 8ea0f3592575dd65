"""Why modules can be dropped."""
