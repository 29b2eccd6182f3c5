"""`python -m deploy.web`: the HTTP API with a queue in this process."""

from deploy.web.local import main

if __name__ == "__main__":
    main()
