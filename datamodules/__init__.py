"""One file a data set; mmbench finds them by name and never imports them directly."""
