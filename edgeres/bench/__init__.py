"""How long a call takes: interleaved sessions of several models, raw samples kept. Never imports torch."""
