"""Policies and adapters for Stable-Baselines3."""
