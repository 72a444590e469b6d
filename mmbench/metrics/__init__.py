"""Scores on stored predictions; numpy only."""
