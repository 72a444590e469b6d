"""One file a paper; the file name is the method name."""
