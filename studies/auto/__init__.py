"""`diffseg auto`: from a folder of images and masks to a network that segments, with reasons for what was chosen."""
