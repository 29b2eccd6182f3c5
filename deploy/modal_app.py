"""Alias for `modal run deploy/modal_app.py` and `modal deploy deploy/modal_app.py`: the app is in
deploy/modal_functions/functions.py."""

from deploy.modal_functions.functions import *  # noqa: F403 - Modal looks for the app and its functions in this module
