"""A fair comparison of algorithms: the protocol, its runs, its statistics and its report."""
