"""What `test_sandbox.py` runs in a sandbox: python -m tests.src.media.sandboxed BEHAVIOR"""

import os
import signal
import sys
import time

from src.media.sandbox import limit_process


def main() -> None:
    """Write "ready" and a newline, then behave."""
    limit_process(cpu_seconds=1, memory=300_000_000)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    match sys.argv[1]:
        case "spin":
            while True:
                pass
        case "sleep":
            time.sleep(3600)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "allocate":
            bytearray(600_000_000)
        case "environment":
            sys.stdout.write(f"{'AWS_SECRET_ACCESS_KEY' in os.environ}\n")


if __name__ == "__main__":
    main()
