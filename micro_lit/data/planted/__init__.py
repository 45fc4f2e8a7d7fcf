"""Planted populations: groups of raters whose rewards are known, their labels, and English texts for them."""
