"""Blocks that methods share: encoders, attention, fusion, experts, losses."""
