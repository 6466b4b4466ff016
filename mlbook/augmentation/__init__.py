"""Data augmentation as the outer variable: policies over differentiable operations, and searches for one (chapter 16)."""
