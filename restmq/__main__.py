"""``python -m restmq`` is the ``restmq`` command."""

from restmq.cli.main import main

if __name__ == "__main__":
    main()
