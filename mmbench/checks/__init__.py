"""What every method and every data set must keep, as rules that are tried on tiny samples.

The tests of mmbench put all that is registered through them; `mmbench check` does so with a plugin.
"""
