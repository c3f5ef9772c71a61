"""Sources of masks, and the stores that keep the masks of a folder of images."""
