"""Alias of `python -m deploy.web`."""

from deploy.web.local import main

if __name__ == "__main__":
    main()
