"""The same meta-gradients, faster: closed forms and the library's kernels, for the networks of the tables."""
