"""Backend of the HTTP API that runs requests as calls of a Modal function."""

from typing import Any

import modal
from modal import exception

from deploy.web.app import ExpiredError, Failed, Finished, SubmitRequest, UnknownCallError, Working

UNKNOWN_CALL = (exception.NotFoundError, exception.InvalidError)


class ModalBackend:
    """Call ids are those of Modal's function calls."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def submit(self, request: SubmitRequest) -> str:
        """Spawn a function call; returns its id."""
        call_id: str = self.function.spawn(dict(request.files), request.prompt, **request.lists).object_id
        return call_id

    def result(self, call_id: str) -> Working | Finished | Failed:
        """The state of a call. Raises UnknownCallError, ExpiredError."""
        try:
            return Finished(video=modal.FunctionCall.from_id(call_id).get(timeout=0))
        except exception.OutputExpiredError as error:
            raise ExpiredError(call_id) from error
        except exception.FunctionTimeoutError as error:
            return Failed(message=f"the function timed out: {error}")
        except (TimeoutError, exception.TimeoutError):
            return Working()
        except UNKNOWN_CALL as error:
            raise UnknownCallError(call_id) from error
        except exception.Error as error:
            return Failed(message=f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - Modal re-raises whatever the function raised
            return Failed(message=str(error))

    def cancel(self, call_id: str) -> None:
        """Cancel a call: Modal raises in the container. Raises UnknownCallError."""
        try:
            modal.FunctionCall.from_id(call_id).cancel()
        except UNKNOWN_CALL as error:
            raise UnknownCallError(call_id) from error
