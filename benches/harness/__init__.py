"""The modules of `benches/run`."""
