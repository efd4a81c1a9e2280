"""Average precision of face detections: the official WIDER FACE protocol, and COCO's by face height."""

LOWEST_SCORE = 0.01
"""Detections that score less are not counted."""
