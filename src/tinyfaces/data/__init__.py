"""Photos with face boxes: readers of annotation files and of labels, which training and evaluation share."""
