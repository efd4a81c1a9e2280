"""From an image to the faces in it. Needs neither torch nor anything of the wings above."""
