"""What every floor of the house shares: errors, artifacts, metrics, stage reports. Never imports torch."""
