"""What each residual module costs by the clock."""
