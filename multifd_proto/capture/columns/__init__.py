"""Captures as columns: many records, TCP segments and packets at once, with numpy.

What is simple is nearly all of a capture: whole records of plain IP, segments in order, packets
one after the other. It is read here, at the speed of the disk. Whatever is not simple is left to
the modules around this package, which look at one thing at a time; both say the same.
"""
