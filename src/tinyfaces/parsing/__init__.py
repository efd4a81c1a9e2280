"""What files of boxes say: the parts of their formats that labels for training and boxes to cover have in common."""
