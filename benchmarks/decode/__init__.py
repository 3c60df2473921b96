"""How fast captures are decoded, and how rightly: ours against what people would use instead."""
