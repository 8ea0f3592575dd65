"""One table and one self-contained page from a run's stage reports. Never imports torch."""
