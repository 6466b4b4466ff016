"""What only the pages of the book need: figures, labs, checks, and the helpers of the notebooks."""
