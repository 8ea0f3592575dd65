"""The command line: options -> config -> stage -> print. No logic."""
