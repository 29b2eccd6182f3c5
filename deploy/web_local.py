"""Kept for those who call `python -m deploy.web_local`: the command is `python -m deploy.web`."""

from deploy.web.local import main

if __name__ == "__main__":
    main()
