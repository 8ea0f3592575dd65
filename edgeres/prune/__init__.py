"""Choose modules, drop them, get the accuracy back."""
