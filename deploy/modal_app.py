"""Kept for those who call `modal run deploy/modal_app.py`: the app is deploy/modal_functions/app.py."""

from deploy.modal_functions.app import *  # noqa: F403 - Modal looks for the app and its functions in this file
