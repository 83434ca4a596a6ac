"""Learners of glimpse-based classification."""
