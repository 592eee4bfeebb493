"""One suite of laws for each port, for the adapters of this package and for those of its users.

A suite is a tuple of laws: async functions that take what makes the adapter, and raise AssertionError where it is
broken. They need no test framework; with pytest, parametrize over the tuple.
"""
