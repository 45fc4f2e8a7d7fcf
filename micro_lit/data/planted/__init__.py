"""Planted populations: synthetic groups of raters with known rewards, and preference data drawn from them."""
