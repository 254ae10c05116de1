"""The two-teacher control study of chapter 6, on torch."""
