"""The rules: one small function per requirement that shows on the wire."""
