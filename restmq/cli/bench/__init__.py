"""``restmq bench``: how fast a server is, measured with a load of its own."""
