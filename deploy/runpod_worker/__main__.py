"""`python -m deploy.runpod_worker`: the worker that RunPod starts; `--rp_serve_api` serves it locally.

docs/deploy.md has the environment variables.
"""

from src.command_line import Parser, launch, whole_number


def make_parser() -> Parser:
    """The arguments that RunPod's own package reads."""
    parser = Parser("-m deploy.runpod_worker", __doc__)
    parser.add_argument("--rp_serve_api", action="store_true", help="serve HTTP on this machine instead of taking jobs")
    parser.add_argument("--rp_api_host", default="localhost", metavar="HOST", help="address of that server")
    parser.add_argument("--rp_api_port", type=whole_number(1, 65535), default=8000, metavar="PORT", help="its port")
    parser.add_argument("--rp_api_concurrency", type=whole_number(), default=1, metavar="N", help="its workers")
    parser.add_argument("--rp_log_level", metavar="LEVEL", help="of RunPod's own log: ERROR, WARN, INFO or DEBUG")
    parser.add_argument("--rp_debugger", action="store_true", help="add RunPod's debug output to results")
    parser.add_argument("--test_input", metavar="JSON", help="run this one job and exit")
    return parser


if __name__ == "__main__":
    launch("deploy.runpod_worker.handler", make_parser)
