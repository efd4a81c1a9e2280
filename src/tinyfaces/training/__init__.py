"""Training loops, one file for each network. They need the [train] extra."""
