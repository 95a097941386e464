"""Figures that explain a network's predictions: how sure it may be, what they rest on, and what it finds similar."""
