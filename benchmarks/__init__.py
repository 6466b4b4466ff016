"""Speed and memory of the meta-gradients and of episode sampling, beside other libraries. Run by hand, see README.md."""
