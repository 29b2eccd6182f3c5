"""Start Cog's server as a child of the gateway: `python -P coglet.py PREDICTOR PORT FOLDER [UPLOAD_URL]`.

It ends with its parent: standard input is a pipe from the gateway, which closes when the gateway ends for any reason.
FOLDER is for the folders that Cog makes for its predictions.
"""

import os
import signal
import sys
import threading

import coglet

GRACE_S = 10.0


def end_with_parent() -> None:
    """SIGTERM for this process once standard input is closed; SIGKILL if it is still there after GRACE_S."""
    while os.read(0, 1):
        pass
    threading.Timer(GRACE_S, os.kill, [os.getpid(), signal.SIGKILL]).start()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    predictor, port, folder, *upload_url = sys.argv[1:]
    threading.Thread(target=end_with_parent, daemon=True).start()
    coglet.server.serve(  # type: ignore[attr-defined, unused-ignore]
        predictor_ref=predictor,
        host="127.0.0.1",
        port=int(port),
        output_temp_dir_base=folder,
        upload_url=upload_url[0] if upload_url else None,
    )
