"""Losses that people wrote, with what each optimises."""
