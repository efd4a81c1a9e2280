"""Average precision of face detections: the official WIDER FACE protocol, and COCO's by face height."""
