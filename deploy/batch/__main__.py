"""`python -m deploy.batch`: many requests on many GPUs."""

from deploy.batch.arguments import make_parser
from src.command_line import launch

if __name__ == "__main__":
    launch("deploy.batch.driver", make_parser)
