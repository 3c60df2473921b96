"""Live ends: driving real QEMU processes."""
