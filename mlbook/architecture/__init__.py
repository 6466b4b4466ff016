"""The architecture as the outer variable: a space small enough to be enumerated, and searches in it (chapter 17)."""
