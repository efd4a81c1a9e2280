"""Photos with face boxes: readers of annotation files, and what training makes of them."""
