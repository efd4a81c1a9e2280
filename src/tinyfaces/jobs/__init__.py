"""From files to files: many photos and videos, their formats, and what is made of the faces in them."""
