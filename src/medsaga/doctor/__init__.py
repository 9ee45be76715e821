"""What there is to know of an installation and its computer, and what is wrong."""
