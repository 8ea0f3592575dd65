"""Stages as a table (`stages`), recipes that chain them (`recipe`), the loop that runs a chain (`chain`)."""
