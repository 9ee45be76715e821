"""How each format of image files is read and written."""
