"""``restmq doctor``: looks for what is wrong with settings, machine, Redis and access."""
