"""Speed and memory of meta-gradients and of episode sampling, beside other libraries. Run by hand, see README.md."""
