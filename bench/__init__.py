"""Figures, measured side by side with the floor in one run."""
