"""From files to files: many photos and videos, result formats, masks, counts, tracks."""
