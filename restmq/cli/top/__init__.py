"""``restmq top``: all queues live in the terminal."""
