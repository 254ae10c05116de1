"""The losses beside other libraries': time, memory, rounding."""
