"""Small generated sets in the layouts of those that users bring, one file each: `write`."""
