"""The specification people read: chapters, test vectors and captures of real QEMU releases."""
