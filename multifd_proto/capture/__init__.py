"""Bytes out of captures: file formats, link layers, TCP reassembly with gaps as events."""
